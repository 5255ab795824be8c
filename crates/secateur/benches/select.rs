//! Choosing which of 100 million weights go, on one thread: `cargo bench -p secateur --bench select`.
//! The control is a pass that only adds up the same bytes.

use std::sync::LazyLock;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use secateur::prune::Amount;
use secateur::prune::{PruneOptions, plan};
use secateur::random::Stream;
use secateur_model::graph::Value;
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::{Attr, DType, Graph, Model, Node, StoredTensor, TensorId, ValueId};

const WEIGHTS: usize = 100_000_000;

/// Ten layers of ten million f32, roughly normal, as bytes of a file.
static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let layers = 10;
    let stream = Stream::new(0, "bench");
    let mut model = Model { tensors: Default::default(), graph: None, path: None, source: Source::memory() };
    let mut graph = Graph::default();
    for layer in 0..layers {
        let len = WEIGHTS / layers;
        let bytes: Vec<u8> = (0..len)
            .flat_map(|i| {
                let draw = stream.draw((layer * len + i) as u64);
                // The sum of four uniform draws.
                let sum: i64 = (0..4).map(|k| ((draw >> (16 * k)) & 0xffff) as i64 - 0x8000).sum();
                (sum as f32 * 1e-6).to_le_bytes()
            })
            .collect();
        let value = |name: String| Value { name, ..Value::default() };
        let first = graph.values.len() as u32;
        graph.values.extend([
            value(format!("x{layer}")),
            value(format!("w{layer}")),
            value(format!("y{layer}")),
        ]);
        graph.constants.insert(ValueId(first + 1), TensorId(layer as u32));
        graph.nodes.push(Node {
            op_type: "Gemm".into(),
            opset: 17,
            inputs: vec![Some(ValueId(first)), Some(ValueId(first + 1))],
            outputs: vec![Some(ValueId(first + 2))],
            attrs: [("transB".to_string(), Attr::Int(1))].into_iter().collect(),
            fallback_label: format!("n{layer}"),
            ..Node::default()
        });
        let tensor = StoredTensor {
            path: format!("w{layer}"),
            dtype: DType::F32,
            shape: vec![1000, len / 1000],
            storage: Storage::Bytes(bytes.into()),
        };
        model.tensors.insert(tensor.path.clone(), tensor);
    }
    model.graph = Some(graph);
    model
});

fn main() {
    divan::main();
}

fn one_thread<T: Send>(run: impl Fn() -> T + Send + Sync) -> impl Fn() -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    move || pool.install(&run)
}

#[divan::bench(args = ["l1@global", "l1", "random@global", "l1@row", "l2/channel", "l2/channel:in"], sample_count = 5, sample_size = 1)]
fn plan_of(bencher: Bencher<'_, '_>, method: &str) {
    let method = method.parse().expect("a method");
    let options = PruneOptions::new(method, Amount::Sparsity(0.8));
    let model = &*MODEL;
    bencher.counter(BytesCount::new(WEIGHTS * 4)).bench(one_thread(move || plan(model, &options).unwrap()));
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn control_sum(bencher: Bencher<'_, '_>) {
    let model = &*MODEL;
    bencher.counter(BytesCount::new(WEIGHTS * 4)).bench(|| {
        let mut sum = 0u32;
        for tensor in model.tensors.values() {
            let Storage::Bytes(bytes) = &tensor.storage else { continue };
            let words = bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b));
            sum = words.fold(sum, u32::wrapping_add);
        }
        black_box(sum)
    });
}
