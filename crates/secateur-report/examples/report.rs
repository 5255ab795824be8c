//! Shows a run: `cargo run --example report -- runs/resnet20` prints its summary and writes its report. Without a folder
//! it sweeps the built-in model first.

use std::io::IsTerminal;
use std::sync::Arc;

use secateur::evaluate::Evaluator;
use secateur::progress::Silent;
use secateur::records::Run;
use secateur::sweep::{Sparsities, SweepOptions, sweep};
use secateur::{demo, io};
use secateur_report::analysis::{Analysis, FREE_THRESHOLD};
use secateur_report::{print_summary, write_report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run = match std::env::args().nth(1) {
        Some(folder) => Run::load(folder)?,
        None => demo_run()?,
    };
    let analysis = Analysis::of(&run, FREE_THRESHOLD)?;
    let mut out = std::io::stdout();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print_summary(&run, &analysis, &mut out, 120, colour)?;
    for path in write_report(&run, &analysis, &run.folder)? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Prunes the built-in model by two methods and evaluates it on its data.
fn demo_run() -> secateur::Result<Run> {
    let folder = std::env::temp_dir().join("secateur-example-report");
    // Without this, the sweep would continue the run of the last time.
    let _ = std::fs::remove_dir_all(&folder);
    let files = demo::unpack(&folder)?;
    let model = Arc::new(io::read(&files.model)?);
    let mut evaluator = Evaluator::new(&model, &demo::eval_options(&files), None)?;
    let options = SweepOptions {
        methods: vec!["l1@global".parse()?, "l1/channel".parse()?],
        sparsities: Sparsities::Steps { step: Some(0.1), max: None },
        data: "digits-test.npz".into(),
        ..SweepOptions::default()
    };
    sweep(&model, &options, &mut evaluator, &folder.join("run"), &Silent)
}
