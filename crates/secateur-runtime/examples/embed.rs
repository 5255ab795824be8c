//! The runtime inside a program: a model is loaded once and run many times, from several threads.
//!
//! ```text
//! cargo run --release -p secateur-runtime --example embed -- model.onnx 1x3x224x224 2 100
//! ```
//!
//! takes a model with one f32 input, the input's shape, the number of threads and how many runs each does.

use std::sync::Arc;
use std::time::Instant;

use secateur_model::{Error, Patch, Result, Tensor, io};
use secateur_runtime::Session;

const USAGE: &str = "expected MODEL SHAPE THREADS RUNS, such as model.onnx 1x3x224x224 2 100";

/// Runs the session again and again on an input of this worker's own; the last output's first element.
fn serve(session: &Session, shape: &[usize], worker: usize, runs: usize) -> Result<f32> {
    let name = session.inputs()[0].name.clone();
    let input = Tensor::new(shape, vec![worker as f32; shape.iter().product()])?;
    let mut first = f32::NAN;
    for _ in 0..runs {
        // A tensor's elements are shared: a clone copies nothing.
        let outputs = session.run(vec![(name.clone(), input.clone())])?;
        first = outputs[0].to_f32s()?.first().copied().unwrap_or(f32::NAN);
    }
    Ok(first)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, shape, threads, runs] = &arguments[..] else { return Err(Error::usage(USAGE)) };
    let number = |text: &str| text.parse::<usize>().map_err(|_| Error::usage(USAGE));
    let shape = shape.split('x').map(number).collect::<Result<Vec<_>>>()?;
    let (threads, runs) = (number(threads)?, number(runs)?);

    // Once: the file is mapped, and the first run compiles a plan for the shape of its input.
    let session = Session::new(Arc::new(io::read(model)?), Patch::new())?;
    if session.inputs().len() != 1 || session.outputs().is_empty() {
        return Err(Error::usage("this example takes models with one input and an output"));
    }
    serve(&session, &shape, 0, 1)?;

    // Many times: the session is shared by reference. Each worker has a pool of one thread, which gives the most
    // runs a second; outside of any pool a run is spread over all cores, which gives the shortest ones.
    let start = Instant::now();
    let firsts = std::thread::scope(|scope| {
        let work = |worker| {
            let (session, shape) = (&session, &shape[..]);
            scope.spawn(move || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
                let pool = pool.map_err(|e| Error::internal(e.to_string()))?;
                pool.install(|| serve(session, shape, worker, runs))
            })
        };
        let workers: Vec<_> = (0..threads).map(work).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().map_err(|_| Error::internal("a worker panicked"))?
        };
        workers.into_iter().map(join).collect::<Result<Vec<f32>>>()
    })?;
    let (total, seconds) = (threads * runs, start.elapsed().as_secs_f64());
    println!("{total} runs in {seconds:.3} s, {:.1} a second", total as f64 / seconds);
    for (worker, first) in firsts.iter().enumerate() {
        println!("worker {worker}: the output begins with {first}");
    }
    Ok(())
}
