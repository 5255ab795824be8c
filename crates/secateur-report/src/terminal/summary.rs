//! What a run found, in a screenful.

use std::io::{self, Write};

use anstyle::{Effects, Style};
use secateur::format;
use secateur::records::{Point, Run, RunKind};
use secateur::text::counted;

use super::super::analysis::{Analysis, Curve, OperatingPoint, Scale, Verdict};
use super::plot::{Frame, Marks, Series, plot, series_style};
use super::table::{Align, Table, paint, shorten};
use super::wrap;

/// Writes the tables and the plot of a run, at most about `width` columns wide, with colours where wanted
/// (the caller knows whether it writes to a terminal and what `NO_COLOR` says).
///
/// # Errors
/// Those of `out`.
pub fn print_summary(
    run: &Run,
    analysis: &Analysis,
    out: &mut dyn Write,
    width: usize,
    colour: bool,
) -> io::Result<()> {
    let view = View { run, analysis, width, colour };
    view.head(out)?;
    match run.header.kind {
        RunKind::Sweep => {
            view.methods(out)?;
            view.plot(out)?;
            view.operating(out)?;
            view.exponentials(out)?;
            view.pairings(out)
        }
        RunKind::Sensitivity => view.layers(out),
    }
}

/// The series whose grey stands for the unpruned model.
const UNPRUNED_SLOT: usize = 6;

struct View<'a> {
    run: &'a Run,
    analysis: &'a Analysis,
    width: usize,
    colour: bool,
}

impl View<'_> {
    fn head(&self, out: &mut dyn Write) -> io::Result<()> {
        let header = &self.run.header;
        let bold = Style::new().effects(Effects::BOLD);
        let title = format!(
            "{} on {}, {} samples",
            header.model,
            header.data,
            format::grouped(header.samples as i64)
        );
        writeln!(out, "{}", paint(&shorten(&title, self.width), bold, self.colour))?;
        let Point { parameters, macs, bytes, measures, .. } = &self.run.unpruned;
        let mut facts: Vec<String> = Vec::new();
        if header.has_labels {
            facts.extend(measures.iter().map(|m| {
                format!(
                    "{} {}",
                    format::measure(&m.name),
                    format::measured(&m.name, m.value, m.standard_error)
                )
            }));
        }
        facts.push(format!("{} parameters", format::count(parameters.total as f64)));
        facts.push(format!("{} MACs", format::count(macs.total as f64)));
        facts.extend(bytes.map(|b| format::bytes(b.raw as f64)));
        writeln!(out, "{}", wrap(&format!("unpruned: {}", facts.join(", ")), self.width))?;
        if let Some(repair) = &header.repair {
            writeln!(out, "{}", wrap(&format!("every pruned model is repaired: {repair}"), self.width))?;
        }
        writeln!(out)
    }

    /// The targets nearest to these.
    fn targets_near(&self, wanted: &[f64]) -> Vec<f64> {
        let targets = self.analysis.targets();
        let near = |w: &f64| targets.iter().copied().min_by(|a, b| (a - w).abs().total_cmp(&(b - w).abs()));
        let mut shown: Vec<f64> = wanted.iter().filter_map(near).collect();
        shown.dedup();
        shown
    }

    /// Writes the fullest table that fits: `make` gets the targets to show and whether to show errors.
    fn fitting(&self, out: &mut dyn Write, make: impl Fn(&[f64], bool) -> Table) -> io::Result<()> {
        let steps: [(&[f64], bool); 5] = [
            (&[0.3, 0.5, 0.7, 0.9], true),
            (&[0.5, 0.7, 0.9], true),
            (&[0.3, 0.5, 0.7, 0.9], false),
            (&[0.5, 0.8], false),
            (&[], false),
        ];
        let tables = steps.iter().map(|(wanted, errors)| make(&self.targets_near(wanted), *errors));
        let mut last = Table::default();
        for table in tables {
            last = table;
            if last.width() <= self.width {
                break;
            }
        }
        last.write(out, self.width, self.colour)
    }

    fn value_name(&self) -> String {
        let name = self.run.header.measures.first().map_or("loss", String::as_str);
        match self.analysis.scale {
            Scale::Relative { .. } => format!("{} ÷ unpruned", format::measure(name)),
            Scale::Absolute => format::measure(name).to_string(),
        }
    }

    /// `42 %`, and where it would be two standard errors away: `38–45 %`.
    fn free(&self, curve: &Curve, errors: bool) -> Vec<String> {
        let free = curve.free;
        let at = format::percent(free.sparsity);
        let mut cells = vec![if free.crossed { at } else { format!("≥ {at}") }];
        if errors {
            let sure = free.certain == free.possible;
            cells.push(if sure { String::new() } else { format::ranges(&[(free.certain, free.possible)]) });
        }
        cells
    }

    /// A value with its error, or the range of the seeds.
    fn value(&self, curve: &Curve, target: f64, errors: bool) -> String {
        let number = format::number;
        match curve.point(target) {
            None => String::new(),
            Some(p) if !errors => number(p.value.mean),
            Some(p) if p.indices.len() > 1 => {
                format!("{} ({}–{})", number(p.value.mean), number(p.value.low), number(p.value.high))
            }
            Some(p) => format::with_error(p.value.mean, p.value.standard_error),
        }
    }

    /// A table with a row for each curve; `extra` is the column after those that say what is free.
    fn curves_table(
        &self,
        first: &str,
        order: &[usize],
        (targets, errors): (&[f64], bool),
        (extra, extra_cell): (&str, &dyn Fn(&Curve) -> String),
    ) -> Table {
        let heads: Vec<String> = targets.iter().map(|t| format!("at {}", format::percent(*t))).collect();
        let mut columns = vec![(first, Align::Left), ("free up to", Align::Right)];
        columns.extend(errors.then_some(("± 2 s.e.", Align::Right)));
        columns.push((extra, Align::Right));
        columns.extend(heads.iter().map(|h| (h.as_str(), Align::Right)));
        let mut table = Table::new(&columns);
        for &i in order {
            let curve = &self.analysis.curves[i];
            let mut row = vec![curve.name().to_string()];
            row.extend(self.free(curve, errors));
            row.push(extra_cell(curve));
            row.extend(targets.iter().map(|t| self.value(curve, *t, errors)));
            table.row(row);
            if self.run.header.kind == RunKind::Sweep {
                table.style(0, series_style(curve.slot));
            }
        }
        table
    }

    fn methods(&self, out: &mut dyn Write) -> io::Result<()> {
        let order: Vec<usize> = (0..self.analysis.curves.len()).collect();
        let size = |curve: &Curve| {
            let size = curve.at(curve.free.place, |p| p.bytes.map_or(f64::NAN, |b| b.gzip));
            if size.is_finite() { format::bytes(size) } else { "–".into() }
        };
        self.fitting(out, |targets, errors| {
            self.curves_table("method", &order, (targets, errors), ("gzip when free", &size))
        })?;
        let legend = format!(
            "{}: mean ± standard error, or mean (range over seeds); free: before {}",
            self.value_name(),
            self.analysis.harm(self.run),
        );
        self.notes(out, legend)?;
        writeln!(out)
    }

    /// Writes a legend, and where standard errors limit what is free, says so.
    fn notes(&self, out: &mut dyn Write, legend: String) -> io::Result<()> {
        let notes = [legend].into_iter().chain(self.analysis.limits(self.run));
        notes.into_iter().try_for_each(|note| writeln!(out, "{}", wrap(&note, self.width)))
    }

    fn plot(&self, out: &mut dyn Write) -> io::Result<()> {
        let series: Vec<Series> = self
            .analysis
            .curves
            .iter()
            .map(|c| Series {
                name: &c.method,
                slot: c.slot,
                marks: Marks::Line,
                points: c.points.iter().map(|p| (p.sparsity, p.value.mean)).collect(),
            })
            .collect();
        let unpruned = self.analysis.scale.unpruned();
        let limit = self.analysis.shown_limit();
        let values = series.iter().flat_map(|s| &s.points).map(|p| p.1).filter(|v| v.is_finite());
        let low = values.fold(unpruned, f64::min);
        let frame = Frame {
            title: &format!("{} up to {}", self.value_name(), format::number(limit)),
            x_title: "sparsity, %",
            x: (0.0, 1.0),
            x_ticks: [0, 25, 50, 75, 100].map(|p| (f64::from(p) / 100.0, p.to_string())).to_vec(),
            y: (low - 0.05 * (limit - low), limit),
            level: unpruned,
        };
        plot(out, &frame, &series, self.width, self.colour)?;
        writeln!(out)
    }

    /// Accuracy against latency: the points that nothing beats, by name, and the others as dots.
    fn operating(&self, out: &mut dyn Write) -> io::Result<()> {
        let (Some(found), Some(settings)) = (self.analysis.operating(self.run), &self.run.header.latency)
        else {
            return Ok(());
        };
        let measure = &self.run.header.measures[found.measure];
        let mut table = Table::new(&[
            ("model", Align::Left),
            ("median", Align::Right),
            ("p10–p90", Align::Right),
            ("speed-up", Align::Right),
            (format::measure(measure), Align::Right),
        ])
        .without_if_narrow(&["p10–p90"]);
        let ms = |seconds: f64| format::number(seconds * 1e3);
        for (_, point) in found.shown() {
            table.row([
                point.name.clone(),
                format!("{} ms", ms(point.latency)),
                point.spread.map(ms).join("–"),
                format!("{}×", format::number(point.speedup)),
                format::measured(measure, point.value, point.error),
            ]);
            table.style(0, series_style(self.slot_of(point)));
        }
        table.write(out, self.width, self.colour)?;
        let legend = format!(
            "no other model is both faster and better{}; batch {}, {}, each model timed in turn with the unpruned one",
            if found.unpruned.on_front { "" } else { " (the unpruned one for comparison)" },
            settings.batch,
            counted(settings.threads, "thread")
        );
        writeln!(out, "{}\n", wrap(&legend, self.width))?;
        let place = |p: &OperatingPoint| (p.latency * 1e3, p.value);
        let series_of = |name, point: &OperatingPoint, marks, points| Series {
            name,
            slot: self.slot_of(point),
            marks,
            points,
        };
        let front = found.front();
        let mut series: Vec<Series> =
            front.iter().map(|p| series_of(&p.name, p, Marks::Letter, vec![place(p)])).collect();
        let others: Vec<_> = found.points.iter().filter(|p| !p.on_front && p.value.is_finite()).collect();
        let of_curve = |p: &OperatingPoint| p.at.map(|(curve, _)| curve);
        for same in others.chunk_by(|a, b| of_curve(a) == of_curve(b)) {
            let name = of_curve(same[0]).map_or("", |curve| self.analysis.curves[curve].method.as_str());
            let points = same.iter().map(|p| place(p)).collect();
            series.push(series_of(name, same[0], Marks::Dots, points));
        }
        if !found.unpruned.on_front {
            let unpruned = &found.unpruned;
            series.push(series_of(&unpruned.name, unpruned, Marks::Dots, vec![place(unpruned)]));
        }
        let ends = |of: fn(&(f64, f64)) -> f64, least: f64, most: f64| {
            let values = || series.iter().flat_map(|s| &s.points).map(of).filter(|v| v.is_finite());
            (values().fold(least, f64::min), values().fold(most, f64::max))
        };
        let x = (0.0, ends(|p| p.0, 0.0, found.unpruned.latency * 1e3).1 * 1.03);
        let (low, high) = ends(|p| p.1, found.unpruned.value, found.unpruned.value);
        let (ticks, decimals) = format::ticks(x.0, x.1, 6);
        let frame = Frame {
            title: &format!("{} against latency", format::measure(measure)),
            x_title: "median latency, ms",
            x,
            x_ticks: ticks.into_iter().map(|t| (t, format!("{t:.decimals$}"))).collect(),
            y: (low - 0.05 * (high - low), high + 0.05 * (high - low).max(1e-6)),
            level: found.unpruned.value,
        };
        plot(out, &frame, &series, self.width, self.colour)?;
        writeln!(out)
    }

    /// The series of an operating point; the unpruned model has the colour of words.
    fn slot_of(&self, point: &OperatingPoint) -> usize {
        point.at.map_or(UNPRUNED_SLOT, |(curve, _)| self.analysis.curves[curve].slot)
    }

    fn exponentials(&self, out: &mut dyn Write) -> io::Result<()> {
        if !self.analysis.curves.iter().any(|c| c.fit.is_some()) {
            return Ok(());
        }
        let mut table = Table::new(&[
            ("exponential", Align::Left),
            ("1 + a·(e^(b·s) − 1)", Align::Left),
            ("off by", Align::Right),
            ("", Align::Left),
        ]);
        for curve in &self.analysis.curves {
            let row = match curve.fit {
                Some(fit) => [
                    curve.method.clone(),
                    format!("a = {}, b = {}", format::number(fit.a), format::number(fit.b)),
                    format::percent(fit.misfit.exp_m1()),
                    if fit.holds() { String::new() } else { "does not fit".into() },
                ],
                None => [curve.method.clone(), "too few points".into(), String::new(), String::new()],
            };
            table.row(row);
            table.style(0, series_style(curve.slot));
        }
        table.write(out, self.width, self.colour)?;
        writeln!(out)
    }

    fn pairings(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.analysis.pairings.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&[
            ("method", Align::Left),
            ("against", Align::Left),
            ("better at", Align::Left),
            ("no difference at", Align::Left),
            ("worse at", Align::Left),
        ]);
        for pairing in &self.analysis.pairings {
            let name = |i: usize| self.analysis.curves[i].method.as_str();
            let at = |verdict| match format::ranges(&pairing.ranges(verdict)) {
                ranges if ranges.is_empty() => "–".to_string(),
                ranges => ranges,
            };
            table.row([
                name(pairing.first).to_string(),
                name(pairing.second).to_string(),
                at(Verdict::First),
                at(Verdict::NoDifference),
                at(Verdict::Second),
            ]);
        }
        table.write(out, self.width, self.colour)?;
        let legend =
            "at equal target sparsity; no difference: less than two standard errors, paired sample by sample";
        writeln!(out, "{}", wrap(legend, self.width))
    }

    fn layers(&self, out: &mut dyn Write) -> io::Result<()> {
        let order = self.analysis.by_sensitivity();
        let weights = |curve: &Curve| {
            let layer = self.run.header.layer(curve.name());
            layer.map_or_else(String::new, |l| format::grouped(l.weights as i64))
        };
        self.fitting(out, |targets, errors| {
            let first = "most sensitive layer first";
            self.curves_table(first, &order, (targets, errors), ("weights", &weights))
        })?;
        let legend = format!(
            "{}, each layer pruned alone; free: the share of the layer's weights that can go before {}",
            self.value_name(),
            self.analysis.harm(self.run),
        );
        self.notes(out, legend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::FREE_THRESHOLD;
    use crate::testing::{header, run_of};

    fn summary(kind: RunKind, has_labels: bool, width: usize, colour: bool) -> String {
        let (_folder, run) = run_of(&header(kind, has_labels));
        let mut out = Vec::new();
        print_summary(&run, &Analysis::of(&run, FREE_THRESHOLD).unwrap(), &mut out, width, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_sweep() {
        insta::assert_snapshot!(summary(RunKind::Sweep, true, 120, false));
    }

    #[test]
    fn a_sweep_without_labels_in_a_narrow_terminal() {
        insta::assert_snapshot!(summary(RunKind::Sweep, false, 60, false));
    }

    #[test]
    fn a_sensitivity_run() {
        insta::assert_snapshot!(summary(RunKind::Sensitivity, true, 100, false));
    }

    #[test]
    fn all_models_that_were_timed_have_their_key() {
        let mut header = header(RunKind::Sweep, true);
        header.latency = Some(secateur::records::LatencySettings { batch: 1, threads: 2 });
        let (_folder, run) = run_of(&header);
        let mut out = Vec::new();
        print_summary(&run, &Analysis::of(&run, FREE_THRESHOLD).unwrap(), &mut out, 100, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().any(|line| line.starts_with("unpruned ")), "{text}");
        assert!(text.contains("⠂ random"), "{text}");
    }

    #[test]
    fn colours_add_nothing_but_colour() {
        let coloured = summary(RunKind::Sweep, true, 100, true);
        assert!(coloured.contains("\u{1b}["));
        let mut plain = String::new();
        let mut rest = coloured.as_str();
        while let Some(at) = rest.find("\u{1b}[") {
            plain.push_str(&rest[..at]);
            rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
        }
        plain.push_str(rest);
        assert_eq!(plain, summary(RunKind::Sweep, true, 100, false));
    }
}
