//! Predictions for people.

use secateur::format::{self, milliseconds};
use secateur::predict::{Forecast, Prediction};
use secateur::text::counted;

use crate::terminal::{Align, Table};

/// What was measured and where, a line each; with the costs of kernels where more is wanted.
pub fn head(found: &Prediction, verbose: bool) -> [String; 2] {
    let costs = if verbose { found.costs.to_string() } else { found.costs.source.name().to_string() };
    [
        format!(
            "{}, batch {}, {}: {} unpruned at best (median {}), {} of it in layers that can be pruned",
            found.model,
            found.batch,
            counted(found.threads, "thread"),
            milliseconds(found.measured.best),
            milliseconds(found.measured.median),
            format::percent(found.in_selected / found.measured.best),
        ),
        format!("{}, {}; kernels by {costs}", found.cpu, found.instruction_set),
    ]
}

/// The forecasts, a row each.
pub fn table(found: &Prediction) -> Table {
    let mut table = Table::new(&[
        ("pruned by", Align::Left),
        ("zeros", Align::Right),
        ("expected", Align::Right),
        ("speed-up", Align::Right),
        ("range", Align::Right),
        ("sparse layers", Align::Right),
        ("", Align::Left),
    ])
    .without_if_narrow(&["sparse layers"]);
    for forecast in &found.forecasts {
        let note = match (&forecast.no_gain_because, forecast.shrunk) {
            (Some(_), _) => "no gain expected",
            (None, true) => "channels removed",
            (None, false) => "",
        };
        table.row([
            forecast.method.clone(),
            format::percent(forecast.sparsity),
            milliseconds(forecast.seconds),
            format!("{}×", format::number(forecast.speedup)),
            forecast.speedup_range.map(format::number).join("–"),
            if forecast.shrunk { String::new() } else { forecast.sparse_layers.to_string() },
            note.into(),
        ]);
    }
    table
}

/// What forecasts of channels are of, where there are such.
pub fn shrunk(found: &Prediction) -> Option<String> {
    let shrunk = found.forecasts.iter().find(|forecast| forecast.shrunk)?;
    let what = "comes only once the channels are removed, which secateur does not do yet: zeros in channels bring none";
    Some(format!("{}: the speed-up {what}", shrunk.method))
}

/// Why no gain is expected, a sentence for each method and reason.
pub fn reasons(found: &Prediction) -> Vec<String> {
    let mut reasons: Vec<(&Forecast, &str, Vec<String>)> = Vec::new();
    for forecast in &found.forecasts {
        let Some(why) = forecast.no_gain_because.as_deref() else { continue };
        let zeros = format::percent(forecast.sparsity);
        match reasons.last_mut().filter(|(last, said, _)| last.method == forecast.method && *said == why) {
            Some((_, _, all)) => all.push(zeros),
            None => reasons.push((forecast, why, vec![zeros])),
        }
    }
    let sentence = |(forecast, why, zeros): (&Forecast, &str, Vec<String>)| {
        format!("{} at {}: no gain expected, because {why}", forecast.method, zeros.join(", "))
    };
    reasons.into_iter().map(sentence).collect()
}

/// The layers' times as they are and by each of a method's forecasts, the slowest layers first.
pub fn layers(found: &Prediction, method: &str) -> Table {
    let forecasts: Vec<&Forecast> = found.forecasts.iter().filter(|f| f.method == method).collect();
    let zeros: Vec<String> = forecasts.iter().map(|f| format::percent(f.sparsity)).collect();
    let mut columns = vec![("layer", Align::Left), ("kernel", Align::Left), ("unpruned", Align::Right)];
    columns.extend(zeros.iter().map(|zeros| (zeros.as_str(), Align::Right)));
    let mut expendable: Vec<&str> = zeros.iter().map(String::as_str).collect();
    // The largest sparsity stays, and the kernel goes first.
    expendable.pop();
    expendable.insert(0, "kernel");
    let mut table = Table::new(&columns).without_if_narrow(&expendable);
    let mut layers: Vec<_> = found.layers.iter().filter(|layer| !layer.name.is_empty()).collect();
    layers.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for layer in layers {
        let then = forecasts.iter().map(|forecast| {
            let found = forecast.layers.iter().find(|l| l.name == layer.name);
            found.map_or_else(String::new, |l| milliseconds(l.predicted))
        });
        let row = [layer.name.clone(), layer.kernel.clone(), milliseconds(layer.seconds)];
        table.row(row.into_iter().chain(then));
    }
    let turned = |layers: &mut dyn Iterator<Item = (bool, f64)>| {
        milliseconds(layers.filter(|(named, _)| !named).map(|(_, time)| time).sum())
    };
    let now = turned(&mut found.layers.iter().map(|l| (!l.name.is_empty(), l.seconds)));
    let then =
        forecasts.iter().map(|f| turned(&mut f.layers.iter().map(|l| (!l.name.is_empty(), l.predicted))));
    table.row(["(layout)".into(), String::new(), now].into_iter().chain(then));
    table
}
