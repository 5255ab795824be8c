//! Pruning while the model trains.

use super::resumed::resumes_alike;
use super::*;

/// Runs a schedule; masks only grow. Gives the final masks and weights.
fn scheduled(
    model: &Arc<Model>,
    data: &TrainData,
    method: &str,
    schedule: Schedule,
    sparsity: f64,
) -> Finetune {
    let every =
        Some(Length::Iterations(4)).filter(|_| !matches!(schedule, Schedule::OneShot | Schedule::Iterative));
    let options = FinetuneOptions {
        train: options(32),
        data: data.clone(),
        pruning: Some((
            PruneOptions::new(method.parse().unwrap(), Amount::Sparsity(sparsity)),
            ScheduleOptions { schedule, every, ..ScheduleOptions::default() },
        )),
        ..FinetuneOptions::default()
    };
    let mut run = Run::new(model, &Masks::new(), None, &options).unwrap();
    let mut before = run.masks.clone();
    let mut grew = 0;
    while run.advance(&mut |_| Ok(())).unwrap().is_some() {
        for (id, mask) in &before {
            let after = &run.masks[id];
            assert!(
                (0..mask.len()).all(|i| mask.keeps(i) || !after.keeps(i)),
                "{method}: a weight came back"
            );
        }
        grew += usize::from(run.masks != before);
        before = run.masks.clone();
        assert!(run.trainer.holds_masks().unwrap());
    }
    assert_eq!(grew > 1, schedule != Schedule::OneShot, "{method}: {grew}");
    run.finish().unwrap()
}

#[test]
fn schedules_reach_their_sparsity() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), data(place.points("train.npz", 64, 1)));
    let zeros = |found: &Finetune, path: &str| {
        of_patch(&model, &found.patch, path).iter().filter(|v| **v == 0.0).count()
    };
    for schedule in
        [Schedule::OneShot, Schedule::Iterative, Schedule::Linear, Schedule::Exponential, Schedule::Cubic]
    {
        let found = scheduled(&model, &points, "l1@global", schedule, 0.75);
        assert_eq!(
            zeros(&found, "fc1.weight") + zeros(&found, "fc2.weight"),
            (96 + 48) * 3 / 4,
            "{schedule:?}"
        );
    }
    let found = scheduled(&model, &points, "l1/2:4", Schedule::OneShot, 0.5);
    for (path, row) in [("fc2.weight", 16)] {
        let weights = of_patch(&model, &found.patch, path);
        for group in weights.chunks_exact(row).flat_map(|row| row.chunks_exact(4)) {
            assert_eq!(group.iter().filter(|v| **v == 0.0).count(), 2);
        }
    }
    let found = scheduled(&model, &points, "l1/channel", Schedule::Iterative, 0.5);
    let (weights, bias) =
        (of_patch(&model, &found.patch, "fc1.weight"), of_patch(&model, &found.patch, "fc1.bias"));
    let empty: Vec<usize> = (0..16).filter(|c| weights[c * 6..][..6].iter().all(|v| *v == 0.0)).collect();
    assert_eq!(empty.len(), 8);
    assert!((0..16).all(|c| (bias[c] == 0.0) == empty.contains(&c)));
}

#[test]
fn pruning_stops_where_the_model_becomes_too_bad() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), data(place.points("train.npz", 64, 1)));
    let validation = EvalOptions { data: points.data.clone(), ..EvalOptions::default() };
    let until = |text: &str| FinetuneOptions {
        train: options(200),
        data: points.clone(),
        validation: Some(validation.clone()),
        pruning: Some((
            PruneOptions::new("l1@global".parse().unwrap(), Amount::Sparsity(0.99)),
            ScheduleOptions {
                schedule: Schedule::Iterative,
                rounds: Some(10),
                start: Some(Length::Iterations(150)),
                end: Some(Length::Iterations(195)),
                ..ScheduleOptions::default()
            },
        )),
        until: Some(text.parse().unwrap()),
        ..FinetuneOptions::default()
    };
    let free = resumes_alike(&model, &until("loss:1000000%"), &[3, 170]);
    assert!(free.stopped.is_none());
    // It is stopped and resumed at each step, also behind the last good pruning.
    let options = until("loss:30%");
    let stopped = resumes_alike(&model, &options, &(149..200).collect::<Vec<_>>());
    let (step, figures) = stopped.stopped.clone().unwrap();
    let zeros = |masks: &Masks| masks.values().map(|mask| mask.pruned()).sum::<usize>();
    assert!(zeros(&stopped.masks) < zeros(&free.masks), "stopped at {step}");
    // The weights are those of the step, under its masks, with its figures.
    let mut evaluator = Evaluator::new(&model, &validation, None).unwrap();
    let again = evaluator.evaluate(stopped.patch.clone(), &Silent).unwrap();
    assert_eq!(again.values[0].value, figures.values[0].value);
    for (&id, mask) in &stopped.masks {
        let values = stopped.patch.load(&model, id).unwrap().to_f32s().unwrap();
        assert!((0..mask.len()).all(|i| mask.keeps(i) || values[i] == 0.0));
    }
    let missing = FinetuneOptions { validation: None, ..options };
    assert!(
        Run::new(&model, &Masks::new(), None, &missing).err().unwrap().to_string().contains("validation")
    );
}

#[test]
fn schedules_that_cannot_be_are_refused() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), data(place.points("train.npz", 64, 1)));
    let refused = |method: &str, amount, schedule, freeze: &[&str]| {
        let freeze = freeze.iter().map(|glob| glob.to_string()).collect();
        let pruning = (
            PruneOptions::new(method.parse().unwrap(), amount),
            ScheduleOptions { schedule, ..ScheduleOptions::default() },
        );
        let options = FinetuneOptions {
            train: TrainOptions { freeze, ..options(32) },
            data: points.clone(),
            pruning: Some(pruning),
            ..FinetuneOptions::default()
        };
        Run::new(&model, &Masks::new(), None, &options).err().unwrap().to_string()
    };
    let half = Amount::Sparsity(0.5);
    assert!(refused("l1/2:4", half, Schedule::Cubic, &[]).contains("one-shot"));
    assert!(refused("l1", Amount::Count(5), Schedule::OneShot, &[]).contains("takes a sparsity"));
    let frozen = refused("l1", half, Schedule::OneShot, &["fc1.weight"]);
    assert!(frozen.contains("fc1.weight") && frozen.contains("exclude"), "{frozen}");
}
