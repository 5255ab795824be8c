//! Why pruning gains nothing, where it does.

use std::collections::HashMap;

use secateur_model::Model;
use secateur_model::prunable::PrunableView;

use super::{Forecast, LEAST_GAIN, channels};
use crate::format::percent;
use crate::perf::bench::LayerTime;
use crate::prune::Pattern;
use crate::prune::method::Method;

/// A share of the time at which a part counts as all of it.
const MOST: f64 = 0.6;
/// Where the cost table accounts for less of a layer's time than this, starting kernels takes the rest.
const SMALL: f64 = 0.3;

/// Where the unpruned model's time goes, in seconds.
pub(super) struct TimeBreakdown {
    /// All of it.
    whole: f64,
    /// In layers whose weights are selected.
    selected: f64,
    /// In those of them that are depthwise convolutions.
    depthwise: f64,
    /// In everything else by kernel, largest first.
    others: Vec<(String, f64)>,
    /// The selected layers for which the cost table has an estimate: estimated and measured time.
    by_costs: (f64, f64),
}

impl TimeBreakdown {
    pub(super) fn new(model: &Model, layers: &[LayerTime], selected: &[PrunableView]) -> TimeBreakdown {
        let views: HashMap<&str, &PrunableView> =
            selected.iter().map(|view| (view.node.as_str(), view)).collect();
        let mut breakdown = TimeBreakdown {
            whole: 0.0,
            selected: 0.0,
            depthwise: 0.0,
            others: Vec::new(),
            by_costs: (0.0, 0.0),
        };
        for layer in layers {
            breakdown.whole += layer.seconds;
            if let Some(view) = views.get(layer.name.as_str()) {
                breakdown.selected += layer.seconds;
                let depthwise = channels::is_depthwise(model, view);
                breakdown.depthwise += if depthwise { layer.seconds } else { 0.0 };
                if let Some(estimate) = layer.estimate {
                    breakdown.by_costs =
                        (breakdown.by_costs.0 + estimate, breakdown.by_costs.1 + layer.seconds);
                }
                continue;
            }
            match breakdown.others.iter_mut().find(|(kernel, _)| *kernel == layer.kernel) {
                Some((_, time)) => *time += layer.seconds,
                None => breakdown.others.push((layer.kernel.clone(), layer.seconds)),
            }
        }
        breakdown.others.sort_by(|a, b| b.1.total_cmp(&a.1));
        breakdown
    }

    /// The time spent in layers whose weights are selected.
    pub(super) fn selected(&self) -> f64 {
        self.selected
    }
}

/// Explains each forecast without a gain. The forecasts are those of one method, by rising sparsity.
pub(super) fn explain(forecasts: &mut [Forecast], method: Method, breakdown: &TimeBreakdown) {
    let from = gains_from(forecasts, breakdown.whole);
    for forecast in forecasts.iter_mut().filter(|forecast| forecast.speedup < LEAST_GAIN) {
        forecast.no_gain_because = Some(reason(forecast, method, breakdown, from));
    }
}

/// The sparsity at which a gain begins, interpolated between neighbours.
fn gains_from(forecasts: &[Forecast], now: f64) -> Option<f64> {
    let goal = now / LEAST_GAIN;
    let first = forecasts.iter().position(|forecast| forecast.seconds <= goal)?;
    let after = &forecasts[first];
    let (sparsity, seconds) = match first.checked_sub(1).map(|before| &forecasts[before]) {
        Some(before) => (before.sparsity, before.seconds),
        None => (0.0, now),
    };
    let part = ((seconds - goal) / (seconds - after.seconds)).clamp(0.0, 1.0);
    Some(sparsity + part * (after.sparsity - sparsity))
}

fn reason(forecast: &Forecast, method: Method, breakdown: &TimeBreakdown, from: Option<f64>) -> String {
    let share = |time: f64| percent(time / breakdown.whole);
    let others = breakdown.whole - breakdown.selected;
    if others > MOST * breakdown.whole {
        let most = breakdown.others.first().map_or("", |(kernel, _)| kernel);
        return format!("{} of the time is in what is not pruned, most of it in {most}", share(others));
    }
    if forecast.shrunk {
        return "too few channels can go: most meet the model's inputs or outputs, tables, or layers that stay".into();
    }
    if breakdown.depthwise > MOST * breakdown.selected {
        return format!(
            "{} of the time is in depthwise convolutions, where zeros save nothing",
            share(breakdown.depthwise)
        );
    }
    let (by_costs, measured) = breakdown.by_costs;
    if by_costs < SMALL * measured {
        return "the layers are so small that starting them takes most of their time".into();
    }
    let sparse: f64 = forecast.layers.iter().filter(|l| l.sparse).map(|l| l.measured).sum();
    if let Pattern::Nm(pattern) = method.pattern {
        return format!(
            "{pattern} has a kernel of its own for linear layers on one row only; elsewhere it counts as {} ordinary \
             zeros, with which sparse kernels would be faster for {} of the time",
            percent(pattern.sparsity()),
            share(sparse)
        );
    }
    let turns: f64 = forecast.layers.iter().filter(|l| l.measured == 0.0).map(|l| l.predicted).sum();
    let saved: f64 = forecast.layers.iter().filter(|l| l.sparse).map(|l| l.measured - l.predicted).sum();
    if turns > 0.5 * saved && saved > 0.0 {
        return format!(
            "sparse kernels save {} of the time, but layout conversions take {}",
            share(saved),
            share(turns)
        );
    }
    let pays = match from {
        Some(from) => format!("zeros pay off from about {}", percent(from)),
        None => "zeros do not pay off at any of these sparsities".into(),
    };
    format!("{pays}: here sparse kernels would be faster for {} of the time only", share(sparse))
}
