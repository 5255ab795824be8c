//! Shows a run: `cargo run --example report -- runs/resnet20` prints its summary and writes its report.

use std::io::IsTerminal;

use secateur::records::Run;
use secateur_report::analysis::{Analysis, FREE_THRESHOLD};
use secateur_report::{print_summary, write_report};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name the folder of a run")?;
    let run = Run::load(&folder)?;
    let analysis = Analysis::of(&run, FREE_THRESHOLD)?;
    let mut out = std::io::stdout();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    print_summary(&run, &analysis, &mut out, 120, colour)?;
    for path in write_report(&run, &analysis, &folder)? {
        println!("{}", path.display());
    }
    Ok(())
}
