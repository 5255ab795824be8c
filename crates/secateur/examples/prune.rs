//! Prunes a model and writes it: `cargo run --example prune -- model.onnx pruned.onnx`.
//! Without arguments it takes the embedded model.

use std::path::PathBuf;

use secateur::{Amount, Result, demo, io, prune};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = std::env::temp_dir().join("secateur-example-prune");
    let input = match arguments.next() {
        Some(path) => path,
        None => demo::unpack(&folder)?.model,
    };
    let output = arguments.next().unwrap_or_else(|| folder.join("pruned.onnx"));

    let model = io::read(&input)?;
    let mut options = prune::PruneOptions::new("l1@global".parse()?, Amount::Sparsity(0.7));
    options.selector.ops = vec!["Conv".into()];
    let pruning = prune::plan(&model, &options)?;
    for layer in &pruning.layers {
        println!("{:40} {:5.1} %", layer.tensor, layer.sparsity() * 100.0);
    }
    io::write(&model, &pruning.patch(&model), &[], &output, io::WriteOptions { overwrite: true })?;
    println!("wrote {}", output.display());
    Ok(())
}
