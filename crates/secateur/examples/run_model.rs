//! Runs a model on zeros and prints its outputs' shapes: `cargo run --example run_model -- model.onnx`.
//! Without an argument it takes the embedded model.

use std::sync::Arc;

use secateur::{DType, Error, Patch, Result, Session, Tensor, demo, io};
use secateur_model::infer::{Binding, Inference};

fn main() -> Result<()> {
    let path = match std::env::args_os().nth(1) {
        Some(path) => path.into(),
        None => demo::unpack(&std::env::temp_dir().join("secateur-example-run"))?.model,
    };
    let model = Arc::new(io::read(path)?);
    let graph = model.graph()?;
    let known = Inference::of(&model, &Binding::default())?;
    let mut inputs = Vec::new();
    for &id in &graph.inputs {
        let fact = known.facts[id.index()].clone().unwrap_or_default();
        let shape = fact.shape.ok_or_else(|| Error::usage("an input's shape is open"))?;
        let len = shape.iter().product();
        let tensor = match fact.dtype {
            Some(DType::I64) => Tensor::new(shape, vec![0i64; len])?,
            _ => Tensor::new(shape, vec![0f32; len])?,
        };
        inputs.push((graph.value_name(id).to_string(), tensor));
    }
    let session = Session::new(model.clone(), Patch::new())?;
    for (name, tensor) in session.outputs().iter().zip(session.run(inputs)?) {
        println!("{name}: {} {:?}", tensor.dtype(), tensor.shape());
    }
    Ok(())
}
