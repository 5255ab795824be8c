//! Shows a run: `cargo run --example report -- runs/resnet20` prints its summary and writes its report.

use std::io::IsTerminal;

use secateur::report::analysis::{Analysis, FREE_THRESHOLD};
use secateur::report::{Run, print_summary};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name the folder of a run")?;
    let run = Run::load(&folder)?;
    let analysis = Analysis::of(&run, FREE_THRESHOLD)?;
    let mut out = std::io::stdout();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print_summary(&run, &analysis, &mut out, 120, colour)?;
    for path in run.write_report(&analysis, &folder)? {
        println!("{}", path.display());
    }
    Ok(())
}
