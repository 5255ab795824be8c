//! `secateur methods`

use std::io::Write;

use clap::Args;
use secateur::coverage::DENSE_BY_DEFAULT;
use secateur::prune::method::{methods_markdown, verdicts};
use secateur::prune::registry::About;
use secateur::prune::{ALLOCATIONS, PATTERNS, Registry, Scope};

use crate::flags::Global;
use crate::options::as_flags;
use crate::style;

/// List criteria, patterns, scopes and allocations, and which combinations are valid.
#[derive(Args)]
pub(crate) struct Methods {
    /// Print the documentation page (Markdown)
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

impl Methods {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let registry = Registry::default();
        if global.json {
            let cells: Vec<_> = registry
                .matrix()
                .iter()
                .map(|c| {
                    serde_json::json!({
                        "method": c.method().to_string(),
                        "criterion": c.criterion.about().written(),
                        "pattern": c.pattern.name,
                        "scope": c.scope.name(),
                        "refused": c.verdict.err(),
                    })
                })
                .collect();
            return super::print_json(&cells);
        }
        let mut out = crate::style::stdout();
        if self.markdown {
            out.write_all(as_flags(&methods_markdown(&registry)).as_bytes())?;
            return Ok(());
        }
        let words = |cells: &[&str]| cells.iter().map(|c| (*c).to_string()).collect::<Vec<_>>();
        // Formulas break over lines as sentences do, so the two share a column.
        let both = |name: &str, formula: &str, summary: &str| {
            vec![name.to_string(), format!("{formula}: {summary}")]
        };
        let about = |about: &About| both(&about.written(), about.formula, &as_flags(about.summary));
        let rows: Vec<_> = registry.criteria().map(|c| about(c.about())).collect();
        let grammar = "A method is criterion[/pattern][@scope][+allocation][+solver], such as l1@global, l2/channel, l1/2:4 or l1+erk.";
        style::print_wrapped(grammar, &mut out)?;
        writeln!(out)?;
        style::print_table(&style::table(&["criterion", "score"], rows, &[1]), &mut out)?;
        writeln!(out)?;
        let rows: Vec<_> = PATTERNS.iter().map(|p| words(&[p.name, p.summary])).collect();
        style::print_table(&style::table(&["pattern", "zeros are"], rows, &[1]), &mut out)?;
        writeln!(out)?;
        let rows: Vec<_> = Scope::ALL.iter().map(|s| words(&[s.name(), s.summary()])).collect();
        style::print_table(&style::table(&["scope", "ranked together"], rows, &[1]), &mut out)?;
        writeln!(out)?;
        let rows: Vec<_> = ALLOCATIONS.iter().map(|a| both(a.name, a.formula, a.summary)).collect();
        style::print_table(&style::table(&["allocation", "density"], rows, &[1]), &mut out)?;
        writeln!(out)?;
        let rows: Vec<_> = registry.solvers().map(|s| about(s.about())).collect();
        style::print_table(&style::table(&["solver", "new weights"], rows, &[1]), &mut out)?;
        writeln!(out)?;

        style::print_wrapped("dense by default, unless `--include` names it:", &mut out)?;
        for kind in DENSE_BY_DEFAULT {
            let line =
                format!("- {}. Recognised by: {}. Source: {}", kind.name, kind.recognised, kind.source);
            style::print_wrapped(&line, &mut out)?;
        }
        writeln!(out)?;

        let (rows, reasons) = verdicts(&registry.matrix());
        let mut header = vec!["goes together", "pattern"];
        header.extend(Scope::ALL.iter().map(|s| s.name()));
        style::print_table(&style::table(&header, rows, &[1]), &mut out)?;
        writeln!(out)?;
        for (i, reason) in reasons.iter().enumerate() {
            style::print_wrapped(&format!("({}) {reason}", i + 1), &mut out)?;
        }
        Ok(())
    }
}
