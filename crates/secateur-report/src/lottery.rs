//! Lottery tickets: what an experiment shows, as numbers and as a table.

use std::io::{self, Write};

use secateur::lottery::{Kind, Level, Lottery, Stop};
use secateur::records::{CurvePoint, MeasuredOn};
use secateur::text::counted;
use secateur::{Error, Result, format};
use serde::Serialize;

use crate::terminal::{Align, Table, wrap};

/// A mean over seeds with the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OverSeeds {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub low: f64,
    /// The greatest.
    pub high: f64,
}

impl OverSeeds {
    fn of(values: &[f64]) -> Self {
        OverSeeds {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// A difference to the dense network of the same seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// The mean over seeds.
    pub mean: f64,
    /// Its standard error; null for one seed.
    pub standard_error: Option<f64>,
}

impl Paired {
    fn of(differences: &[f64]) -> Self {
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        let standard_error = (differences.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
        Paired { mean, standard_error }
    }
}

/// The trainings of a level that start alike, over seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// How many times was pruned.
    pub level: u64,
    /// The share of weights that are kept.
    pub remaining: f64,
    /// The iteration of the least validation loss.
    pub early_stop: OverSeeds,
    /// The measure there.
    pub value: OverSeeds,
    /// The measure at the end of training.
    pub last: OverSeeds,
    /// The measure at the early stop, less that of the dense network.
    pub value_difference: Paired,
    /// The iteration of the early stop, less that of the dense network.
    pub early_stop_difference: Paired,
    /// Whether it does as well as the dense network: see [`Tickets::matching`].
    pub matches: bool,
    /// The measure against the iteration, the mean over seeds.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// The trainings that start alike, by rising level; each series begins with the dense network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// What the trainings start from.
    pub kind: Kind,
    /// The levels.
    pub points: Vec<Point>,
}

/// What an experiment shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tickets {
    /// The measure that is reported: `top1`, or the loss where there are no classes.
    pub measure: String,
    /// Whether it was measured on test data, and not on those that the early stop was found on.
    pub on_test: bool,
    /// The tickets first.
    pub series: Vec<Series>,
    /// The smallest level whose tickets match the dense network, if any: their mean measure at the early stop is no worse
    /// than the dense network's worst over seeds, and their mean early stop no later than its latest.
    pub matching: Option<u64>,
}

impl Tickets {
    /// What an experiment shows.
    ///
    /// # Errors
    /// `Input` where it has no dense network.
    pub fn of(lottery: &Lottery) -> Result<Tickets> {
        let dense: Vec<&Level> = lottery.levels.iter().filter(|level| level.level == 0).collect();
        let Some(first) = dense.first() else {
            return Err(Error::input("the experiment has no dense network"));
        };
        let reported = first.early_stop.reported();
        let measure = match reported.value("top1") {
            Some(_) => "top1".to_string(),
            None => reported.measures.first().map(|m| m.name.clone()).unwrap_or_default(),
        };
        let on_test = first.early_stop.test.is_some();
        let reader = Reader { measure: &measure, on_test, dense: &dense };
        let mut series = Vec::new();
        for kind in [Kind::Ticket, Kind::Reinitialised, Kind::Random] {
            let mut points = vec![reader.point(&dense)];
            let most = lottery.levels.iter().map(|level| level.level).max().unwrap_or(0);
            for number in 1..=most {
                let of_level = |level: &&Level| (level.kind, level.level) == (kind, number);
                let levels: Vec<&Level> = lottery.levels.iter().filter(of_level).collect();
                if !levels.is_empty() {
                    points.push(reader.point(&levels));
                }
            }
            if points.len() > 1 || kind == Kind::Ticket {
                series.push(Series { kind, points });
            }
        }
        let tickets = series[0].points.iter().skip(1);
        let matching = tickets.filter(|point| point.matches).map(|point| point.level).max();
        Ok(Tickets { measure, on_test, series, matching })
    }

    /// Whether the measure is a share of samples, of which more is better.
    pub fn is_share(&self) -> bool {
        self.measure == "top1"
    }

    /// A value of the measure.
    pub fn shown(&self, value: f64) -> String {
        if self.is_share() { format!("{:.2} %", 100.0 * value) } else { format!("{value:.4}") }
    }

    /// The series of a kind.
    pub fn of_kind(&self, kind: Kind) -> Option<&Series> {
        self.series.iter().find(|series| series.kind == kind)
    }

    /// What was found, in sentences.
    pub fn verdict(&self) -> String {
        let tickets = &self.series[0].points;
        let name = if self.is_share() { "top-1" } else { format::measure(&self.measure) };
        let stop = |point: &Point| {
            let (value, stop) = (self.shown(point.value.mean), whole(point.early_stop.mean));
            format!("{name} {value}, early stop at {stop}")
        };
        let dense = &tickets[0];
        let Some(matching) = tickets.iter().find(|point| Some(point.level) == self.matching) else {
            return format!("No ticket matches the dense network ({}).", stop(dense));
        };
        let mut text = format!(
            "The smallest ticket that matches the dense network keeps {} of the weights: {} (dense: {}).",
            format::percent(matching.remaining),
            stop(matching),
            stop(dense)
        );
        for series in &self.series[1..] {
            if let Some(point) = series.points.iter().find(|point| point.level == matching.level) {
                let name = match series.kind {
                    Kind::Random => "With a random mask of this size",
                    _ => "The same mask reinitialised",
                };
                text += &format!(" {name}: {}.", stop(point));
            }
        }
        text
    }

    /// How [`Tickets::matching`] is decided.
    pub fn rule(&self) -> &'static str {
        "A ticket matches where its mean over seeds is no worse at the early stop than the dense network's worst seed, and \
         its mean early stop no later than the dense network's latest."
    }
}

/// Reads trainings by one measure.
struct Reader<'a> {
    measure: &'a str,
    on_test: bool,
    dense: &'a [&'a Level],
}

impl Reader<'_> {
    fn value(&self, point: &CurvePoint) -> f64 {
        point.value(self.measure).unwrap_or(f64::NAN)
    }

    /// Whether a value is no worse than another.
    fn is_as_good(&self, value: f64, other: f64) -> bool {
        if self.measure == "top1" { value >= other } else { value <= other }
    }

    fn point(&self, levels: &[&Level]) -> Point {
        let over =
            |read: &dyn Fn(&Level) -> f64| -> Vec<f64> { levels.iter().map(|level| read(level)).collect() };
        let at = |stop: &Stop| self.value(stop.reported());
        let iteration = |level: &Level| level.early_stop.iteration() as f64;
        let (value, stop) = (over(&|level| at(&level.early_stop)), over(&iteration));
        let paired = |read: &dyn Fn(&Level) -> f64| {
            let of_seed = |level: &&&Level| self.dense.iter().find(|dense| dense.seed == level.seed);
            let pairs = levels.iter().filter_map(|level| Some(read(level) - read(of_seed(&level)?)));
            Paired::of(&pairs.collect::<Vec<_>>())
        };
        let of_dense =
            |read: &dyn Fn(&Level) -> f64| -> Vec<f64> { self.dense.iter().map(|l| read(l)).collect() };
        let (value, stop) = (OverSeeds::of(&value), OverSeeds::of(&stop));
        let worst = OverSeeds::of(&of_dense(&|level| at(&level.early_stop)));
        let worst = if self.is_as_good(worst.high, worst.low) { worst.low } else { worst.high };
        let latest = OverSeeds::of(&of_dense(&iteration)).high;
        Point {
            level: levels[0].level,
            remaining: OverSeeds::of(&over(&Level::remaining)).mean,
            early_stop: stop,
            value,
            last: OverSeeds::of(&over(&|level| at(&level.last))),
            value_difference: paired(&|level| at(&level.early_stop)),
            early_stop_difference: paired(&iteration),
            matches: self.is_as_good(value.mean, worst) && stop.mean <= latest,
            curve: self.curve(levels),
        }
    }

    /// The mean curve: at the iterations that all of them have.
    fn curve(&self, levels: &[&Level]) -> Vec<(f64, f64)> {
        let on = if self.on_test { MeasuredOn::Test } else { MeasuredOn::Validation };
        let measured = |level: &Level, iteration: u64| {
            let point = level.curve.iter().find(|point| point.on == on && point.iteration == iteration);
            point.map(|point| self.value(point))
        };
        let first = levels[0].curve.iter().filter(|point| point.on == on).map(|point| point.iteration);
        let mean = |iteration: u64| {
            let values: Option<Vec<f64>> = levels.iter().map(|level| measured(level, iteration)).collect();
            let values = values?;
            Some((iteration as f64, values.iter().sum::<f64>() / values.len() as f64))
        };
        first.filter_map(mean).collect()
    }
}

fn whole(value: f64) -> String {
    format::grouped(value.round() as i64)
}

/// Writes what an experiment shows as a table, at most about `width` columns wide, with colours where wanted.
///
/// # Errors
/// Those of `out`.
pub fn print_tickets(
    lottery: &Lottery,
    tickets: &Tickets,
    out: &mut dyn Write,
    width: usize,
    colour: bool,
) -> io::Result<()> {
    let header = &lottery.header;
    let title = format!(
        "{} on {}: {}, {} per level, {} iterations, {}",
        header.model,
        header.data,
        header.method,
        format::percent(header.rate),
        format::grouped(header.steps as i64),
        counted(seeds_of(lottery), "seed"),
    );
    writeln!(out, "{}\n", wrap(&title, width))?;
    let mut columns = vec![("left".to_string(), Align::Right)];
    let value = if tickets.is_share() { "top-1" } else { "loss" };
    for series in &tickets.series {
        let name = match series.kind {
            Kind::Ticket => "ticket",
            Kind::Reinitialised => "reinit",
            Kind::Random => "random",
        };
        columns.extend([(format!("{name}: stop"), Align::Right), (value.to_string(), Align::Right)]);
    }
    let columns: Vec<(&str, Align)> = columns.iter().map(|(name, align)| (name.as_str(), *align)).collect();
    let mut table = Table::new(&columns);
    for (row, ticket) in tickets.series[0].points.iter().enumerate() {
        let mut cells = vec![format::percent(ticket.remaining)];
        for series in &tickets.series {
            let point = series.points.iter().find(|point| point.level == ticket.level);
            let point = point.filter(|_| row > 0 || series.kind == Kind::Ticket);
            cells.extend(match point {
                Some(point) => [whole(point.early_stop.mean), tickets.shown(point.value.mean)],
                None => [String::new(), String::new()],
            });
        }
        table.row(cells);
    }
    table.write(out, width, colour)?;
    let of = if tickets.on_test { "test" } else { "validation" };
    let said = format!(
        "stop: iteration of the least validation loss; {value}: on the {of} data there. Means over seeds."
    );
    writeln!(out, "\n{}\n\n{}", wrap(&said, width), wrap(&tickets.verdict(), width))?;
    writeln!(out, "{}", wrap(tickets.rule(), width))
}

/// How many seeds an experiment has.
pub(crate) fn seeds_of(lottery: &Lottery) -> usize {
    lottery.levels.iter().filter(|level| level.level == 0).count()
}

/// Every training as a line of a table.
pub(crate) fn csv(lottery: &Lottery, tickets: &Tickets) -> String {
    let measure = &tickets.measure;
    let names =
        ["id", "kind", "level", "seed", "remaining", "early_stop", "validation_loss"].map(String::from);
    let more = ["early_stop", "last"].map(|at| format!("{measure}_{at}"));
    let head = secateur::records::csv_line(names.into_iter().chain(more));
    let row = |level: &Level| {
        let at = |stop: &Stop| stop.reported().value(measure).unwrap_or(f64::NAN).to_string();
        let cells = [
            level.id.clone(),
            level.kind.name().to_string(),
            level.level.to_string(),
            level.seed.to_string(),
            level.remaining().to_string(),
            level.early_stop.iteration().to_string(),
            level.early_stop.validation.loss().to_string(),
            at(&level.early_stop),
            at(&level.last),
        ];
        secateur::records::csv_line(cells.into_iter())
    };
    head + &lottery.levels.iter().map(row).collect::<String>()
}

#[cfg(test)]
pub(crate) mod tests {
    use secateur::lottery::{Header, LayerCount, Rewind};
    use secateur::records::Measure;
    use secateur::train::Init;

    use super::*;

    fn measured(iteration: u64, on: MeasuredOn, loss: f64, top1: f64) -> CurvePoint {
        let of = |name: &str, value| Measure { name: name.into(), value, standard_error: 0.01 };
        CurvePoint { iteration, on, measures: vec![of("cross-entropy", loss), of("top1", top1)] }
    }

    /// A training whose early stop and accuracy there are these.
    fn training(kind: Kind, level: u64, seed: u64, stop: u64, top1: f64) -> Level {
        let at = |iteration, top1| Stop {
            validation: measured(iteration, MeasuredOn::Validation, 0.1, top1 - 0.01),
            test: Some(measured(iteration, MeasuredOn::Test, 0.1, top1)),
        };
        let kept = (1000.0 * 0.5f64.powi(level as i32)).round() as usize;
        let curve = (0..=4).map(|i| measured(500 * i, MeasuredOn::Test, 1.0, top1 - 0.5 / (i + 1) as f64));
        Level {
            id: format!("{level}-{seed}-{kind:?}"),
            kind,
            level,
            seed,
            layers: vec![LayerCount { name: "fc.weight".into(), kept, size: 1000 }],
            early_stop: at(stop, top1),
            last: at(2000, top1 - 0.001),
            curve: curve.collect(),
        }
    }

    /// Two seeds of three levels, of which the second matches the dense network.
    pub(crate) fn made_up() -> Lottery {
        let mut levels =
            vec![training(Kind::Ticket, 0, 7, 1000, 0.97), training(Kind::Ticket, 0, 8, 1200, 0.98)];
        for (level, stop, top1) in [(1, 900, 0.985), (2, 1200, 0.971), (3, 1300, 0.9)] {
            for seed in [7, 8] {
                levels.push(training(Kind::Ticket, level, seed, stop, top1));
                levels.push(training(Kind::Reinitialised, level, seed, stop + 300, top1 - 0.02));
                levels.push(training(Kind::Random, level, seed, stop + 500, top1 - 0.04));
            }
        }
        let header = Header {
            model: "lenet-300-100".into(),
            data: "train-images-idx3-ubyte.gz".into(),
            samples: [55_000, 5_000, 10_000],
            steps: 2000,
            method: "l1".into(),
            rate: 0.5,
            rewind: Rewind::default(),
            init: Init::Glorot,
            recipe: serde_json::json!({
                "prune": { "layer": ["fc3*=0.1"] },
                "data": { "data": "train-images-idx3-ubyte.gz", "batch": 60 },
                "train": { "epochs": "2000it" },
                "lottery": { "net": "lenet-300-100", "levels": 3, "test": ["t10k.gz"] },
            }),
            version: "0.1.0".into(),
        };
        Lottery { folder: "runs".into(), header, levels }
    }

    #[test]
    fn the_smallest_ticket_as_good_as_the_worst_dense_network_matches() {
        let tickets = Tickets::of(&made_up()).unwrap();
        assert_eq!((tickets.measure.as_str(), tickets.on_test), ("top1", true));
        let points = &tickets.series[0].points;
        assert_eq!(points.iter().map(|p| p.remaining).collect::<Vec<_>>(), [1.0, 0.5, 0.25, 0.125]);
        let dense = points[0].value;
        assert!((dense.mean - 0.975).abs() < 1e-12 && (dense.low, dense.high) == (0.97, 0.98));
        assert_eq!(points.iter().map(|p| p.matches).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(tickets.matching, Some(2));
        // Seed by seed: 0.971 − 0.97 and 0.971 − 0.98.
        let Paired { mean, standard_error } = points[2].value_difference;
        assert!((mean + 0.004).abs() < 1e-12 && (standard_error.unwrap() - 0.005).abs() < 1e-12);
        let verdict = tickets.verdict();
        for said in [
            "keeps 25 %",
            "top-1 97.10 %, early stop at 1,200",
            "(dense: top-1 97.50 %, early stop at 1,100)",
        ] {
            assert!(verdict.contains(said), "{verdict}");
        }
        assert!(
            verdict.contains("reinitialised: top-1 95.10 %") && verdict.contains("random mask"),
            "{verdict}"
        );
        assert_eq!(points[1].curve.len(), 5);
        assert_eq!(points[1].curve[4].0, 2000.0);
    }

    #[test]
    fn where_nothing_matches_it_is_said() {
        let mut lottery = made_up();
        lottery.levels.retain(|level| level.level == 0 || level.level == 3);
        let tickets = Tickets::of(&lottery).unwrap();
        assert_eq!(tickets.matching, None);
        assert!(tickets.verdict().starts_with("No ticket matches"), "{}", tickets.verdict());
        lottery.levels.retain(|level| level.level == 3);
        assert!(Tickets::of(&lottery).unwrap_err().to_string().contains("no dense network"));
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let (lottery, mut out) = (made_up(), Vec::new());
        let tickets = Tickets::of(&lottery).unwrap();
        print_tickets(&lottery, &tickets, &mut out, 80, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("12.5 %         1,300  90.00 %         1,600  88.00 %"), "{text}");
        let table = csv(&lottery, &tickets);
        assert_eq!(table.lines().count(), 1 + lottery.levels.len());
        assert!(table.lines().all(|line| line.split(',').count() == 9), "{table}");
    }
}
