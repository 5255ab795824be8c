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
