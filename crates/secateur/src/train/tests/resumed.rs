//! Trainings that are stopped and go on.

use super::*;

#[test]
fn the_seed_says_everything_and_threads_nothing() {
    let place = Place::new();
    let (model, data) = (mlp(None, true), data(place.points("train.npz", 60, 1)));
    let run = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let trainer = trained(&model, &data, &TrainOptions { seed, ..options(20) });
            bits(&model, &trainer.patch().unwrap())
        })
    };
    let one = run(1, 3);
    assert_eq!(one, run(1, 3));
    assert_eq!(one, run(2, 3));
    assert_ne!(one, run(1, 4));
}

/// Runs a training to its end, stopped after each of some steps, saved and resumed by another.
pub(super) fn resumes_alike(model: &Arc<Model>, options: &FinetuneOptions, stops: &[u64]) -> Finetune {
    let place = Place::new();
    let start = |name: &str| FinetuneOptions {
        progress_file: Some(place.path(&format!("{name}.safetensors"))),
        log: Some(place.path(&format!("{name}.jsonl"))),
        ..options.clone()
    };
    let whole = finetune(model, &Masks::new(), None, &start("whole"), &Silent, &mut |_| Ok(()));
    let whole = whole.unwrap();
    let options = start("resumed");
    for &stop in stops {
        let mut run = Run::new(model, &Masks::new(), None, &options).unwrap();
        run.resume().unwrap();
        while run.trainer.step_number() < stop && run.advance(&mut |_| Ok(())).unwrap().is_some() {}
        run.save().unwrap();
    }
    let mut run = Run::new(model, &Masks::new(), None, &options).unwrap();
    run.resume().unwrap();
    while run.advance(&mut |_| Ok(())).unwrap().is_some() {}
    let resumed = run.finish().unwrap();
    assert_eq!(bits(model, &resumed.patch), bits(model, &whole.patch));
    // The figures of single samples are not kept.
    let told = |found: &Finetune| serde_json::to_string(&found.epochs).unwrap();
    assert!(told(&resumed) == told(&whole), "other epochs");
    assert_eq!((&resumed.masks, resumed.best), (&whole.masks, whole.best));
    let [resumed, once] =
        ["resumed.jsonl", "whole.jsonl"].map(|name| std::fs::read(place.path(name)).unwrap());
    assert!(resumed == once, "another log");
    whole
}

#[test]
fn a_training_resumes_at_any_step() {
    let place = Place::new();
    let points = data(place.points("train.npz", 70, 1));
    let optimizer = OptimOptions { nesterov: true, weight_decay: 0.01, ..OptimOptions::default() };
    let rate = Rate { warmup: Some(Length::Iterations(4)), ..options(0).rate };
    let train = TrainOptions { optimizer, rate, ..options(26) };
    let momentum = FinetuneOptions { train, data: points.clone(), ..FinetuneOptions::default() };
    resumes_alike(&mlp(None, true), &momentum, &(1..26).collect::<Vec<_>>());

    let adam = OptimOptions { kind: Optim::Adam, ..OptimOptions::default() };
    let pruning = Some((
        PruneOptions::new("l1@global".parse().unwrap(), Amount::Sparsity(0.7)),
        ScheduleOptions {
            schedule: Schedule::Cubic,
            every: Some(Length::Iterations(5)),
            ..ScheduleOptions::default()
        },
    ));
    let train = TrainOptions { optimizer: adam, ..options(40) };
    let scheduled = FinetuneOptions { train, pruning, data: points.clone(), ..FinetuneOptions::default() };
    resumes_alike(&mlp(None, false), &scheduled, &[1, 4, 5, 6, 17, 30, 31, 39]);

    // A rate at which the validation loss jumps about: the best epoch is not the last.
    let validation = place.points("validation.npz", 40, 2);
    let rate = Rate { rate: 1.0, schedule: RateSchedule::Constant, ..Rate::default() };
    let stopped = FinetuneOptions {
        train: TrainOptions { rate, length: Length::Epochs(40), ..options(0) },
        data: points,
        validation: Some(EvalOptions { data: validation, ..EvalOptions::default() }),
        patience: Some(3),
        ..FinetuneOptions::default()
    };
    let whole = resumes_alike(&mlp(None, false), &stopped, &[3, 8, 9, 20, 33]);
    let best = whole.best.unwrap();
    assert_eq!(whole.epochs.len() as u64, (best + 3).min(40));
    let loss = |epoch: &Epoch| epoch.validation.as_ref().unwrap().values[0].value;
    let least = whole.epochs.iter().map(loss).fold(f64::INFINITY, f64::min);
    assert_eq!(loss(&whole.epochs[best as usize - 1]), least);

    let augment = Augment { flip: true, pad: 4 };
    let train = TrainOptions { augment, ..options(12) };
    let images = FinetuneOptions { train, data: data(place.images(40)), ..FinetuneOptions::default() };
    resumes_alike(&cnn(), &images, &[2, 5, 6, 11]);
}

#[test]
fn another_training_is_not_resumed() {
    let place = Place::new();
    let model = mlp(None, false);
    let options = FinetuneOptions {
        train: options(10),
        data: data(place.points("train.npz", 40, 1)),
        progress_file: Some(place.path("progress.safetensors")),
        ..FinetuneOptions::default()
    };
    Run::new(&model, &Masks::new(), None, &options).unwrap().save().unwrap();
    let with = |change: &dyn Fn(&mut FinetuneOptions)| {
        let mut options = options.clone();
        change(&mut options);
        let mut run = Run::new(&model, &Masks::new(), None, &options).unwrap();
        run.resume().err().map(|error| error.to_string())
    };
    assert_eq!(with(&|_| ()), None);
    let message = with(&|options| options.train.rate.rate = 0.3).unwrap();
    assert!(message.contains("other options") && message.contains("progress.safetensors"), "{message}");
    let mut other = Model::clone(&model);
    other.tensors.get_mut("fc1.bias").unwrap().storage = Storage::Data(Arc::new(Data::F32(vec![0.0; 16])));
    let other = Arc::new(other);
    let mut run = Run::new(&other, &Masks::new(), None, &options).unwrap();
    assert!(run.resume().is_err());
    std::fs::write(place.path("progress.safetensors"), b"damaged").unwrap();
    assert!(with(&|_| ()).is_some());
}

#[test]
fn the_log_has_each_step_once_and_what_was_done_to_the_model() {
    let place = Place::new();
    let points = data(place.points("train.npz", 70, 1));
    let log = place.path("curve.jsonl");
    let options = FinetuneOptions {
        // 8 steps an epoch; the log has a hundred equal parts.
        train: TrainOptions { length: Length::Iterations(410), ..options(0) },
        data: points.clone(),
        validation: Some(EvalOptions { data: points.data, ..EvalOptions::default() }),
        pruning: Some((
            PruneOptions::new("l1@global".parse().unwrap(), Amount::Sparsity(0.7)),
            ScheduleOptions { schedule: Schedule::Iterative, rounds: Some(3), ..ScheduleOptions::default() },
        )),
        log: Some(log.clone()),
        ..FinetuneOptions::default()
    };
    let mut epochs = Vec::new();
    let mut keep = |epoch: &Epoch| {
        epochs.push(epoch.clone());
        Ok(())
    };
    finetune(&mlp(None, false), &Masks::new(), None, &options, &Silent, &mut keep).unwrap();
    let lines: Vec<LogLine> = read_curve(&log).unwrap();
    let measured = |data: MeasuredOn| -> Vec<(u64, &[crate::records::Measure])> {
        let of = |line: &'_ LogLine| match &line.what {
            Logged::Measured { on, .. } => *on == data,
            Logged::Changed { .. } => false,
        };
        let values = lines.iter().filter(|line| of(line)).map(|line| match &line.what {
            Logged::Measured { measures, .. } => (line.iteration, measures.as_slice()),
            Logged::Changed { .. } => unreachable!(),
        });
        values.collect()
    };
    let training = measured(MeasuredOn::Training);
    let ends: Vec<u64> = training.iter().map(|(at, _)| *at).collect();
    assert_eq!(ends, (1..=100u64).map(|i| (410 * i).div_ceil(100)).collect::<Vec<_>>());
    // The means over all steps are those of the epochs.
    let mut before = 0;
    let mut sum = 0.0;
    for (at, measures) in &training {
        assert!(measures[1].name == "top1" && (0.0..=1.0).contains(&measures[1].value));
        sum += measures[0].value * (at - before) as f64;
        before = *at;
    }
    let of_epochs: f64 =
        epochs.iter().map(|epoch| epoch.loss * (if epoch.step == 410 { 2.0 } else { 8.0 })).sum();
    assert!((sum - of_epochs).abs() < 1e-6 * sum, "{sum} {of_epochs}");
    let validated: Vec<(u64, f64)> =
        measured(MeasuredOn::Validation).iter().map(|(at, measures)| (*at, measures[0].value)).collect();
    let told = epochs.iter().map(|epoch| (epoch.step, epoch.validation.as_ref().unwrap().values[0].value));
    assert_eq!(validated, told.collect::<Vec<_>>());
    let pruned = lines.iter().filter(|line| line.what == Logged::Changed { event: Event::Pruned });
    let pruned: Vec<(u64, f64)> = pruned.map(|line| (line.iteration, line.sparsity)).collect();
    assert_eq!(pruned.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 153, 307]);
    assert!(pruned.windows(2).all(|pair| pair[0].1 < pair[1].1) && (pruned[2].1 - 0.7).abs() < 0.01);
    assert!(lines.windows(2).all(|pair| pair[0].iteration <= pair[1].iteration));
}
