//! Plans with evidence, in rounds where a criterion asks for them.

use std::sync::Arc;

use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Model, Result};

use super::evidence::numbers;
use super::flow::flow;
use crate::masters::Masters;
use crate::prune::evidence::{EvidenceSet, FLOW};
use crate::prune::{self, Amount, MaskMap, Override, PruneOptions, Pruning, Subject};

/// Finds what to prune, as [`prune::plan_with`] does. A criterion of n rounds is scored anew in each: of round k the
/// density is that of the end to the power k ÷ n; where the amount is of what remains, it is relative to that.
///
/// # Errors
/// As [`prune::plan_with`]; `Usage` where rounds have no meaning for the amount.
pub fn plan(
    model: &Arc<Model>,
    subject: &Subject<'_>,
    options: &PruneOptions,
    base: &MaskMap,
    evidence: &EvidenceSet,
) -> Result<Pruning> {
    if !options.method.needs(&FLOW) {
        return prune::plan_with(subject, options, base, evidence);
    }
    if options.of_remaining && matches!(options.amount, Amount::Count(_)) {
        let message = "prunes in rounds, by shares: leave option `of_remaining` out, or name a share";
        return Err(Error::usage(message).at(format!("method `{}`", options.method)));
    }
    let rounds = match options.method.pattern.sparsity() {
        Some(_) => 1,
        None => options.method.criterion.rounds(),
    };
    let views = options.selector.select(subject.model, options.entries(subject)?)?;
    let views: Vec<&PrunableView> = views.iter().collect();
    let size: usize = views.iter().map(|view| subject.model.tensor(view.tensor).len()).sum();
    let target = match options.amount {
        Amount::Sparsity(sparsity) => sparsity,
        Amount::Count(count) => count as f64 / size.max(1) as f64,
    };
    // What is pruned on the way has no flow: of what remains at first it is the first to go again.
    let start = |masks: &MaskMap| if options.of_remaining { base.clone() } else { masks.clone() };
    let mut masks = base.clone();
    let mut known = evidence.clone();
    let mut round = 1;
    loop {
        let masters = Masters::of(model, &masks)?;
        for (id, scores) in flow(masters.in_f32(), &views)? {
            let stored = model.tensor(id);
            known.insert(&FLOW, [numbers(stored, stored.shape.clone(), scores)]);
        }
        if round == rounds {
            return prune::plan_with(subject, options, &start(&masks), &known);
        }
        let share = f64::from(round) / f64::from(rounds);
        let part = |sparsity: f64| 1.0 - (1.0 - sparsity).powf(share);
        let mut now = PruneOptions { amount: Amount::Sparsity(part(target)), ..options.clone() };
        now.method.solvers = prune::method::Solvers::default();
        let own = |o: &Override| Override { sparsity: part(o.sparsity), ..o.clone() };
        now.overrides = options.overrides.iter().map(own).collect();
        let pruning = prune::plan_with(subject, &now, &start(&masks), &known)?;
        masks = pruning.joined(&start(&masks))?;
        round += 1;
    }
}
