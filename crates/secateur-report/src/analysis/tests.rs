//! What analyses say of made-up runs.

use secateur::measure::Count;
use secateur::records::{LatencySettings, Measure, PointKey, RunKind, RunWriter};

use super::*;
use crate::testing::{Noise, header, run_of as whole};

/// A run whose points have these per-sample losses: (method, seed, target, losses).
fn run_of(unpruned: &[f32], points: &[(&str, Option<u64>, f64, Vec<f32>)]) -> (tempfile::TempDir, Run) {
    let folder = tempfile::tempdir().unwrap();
    let mut header = header(RunKind::Sweep, true);
    header.samples = unpruned.len() as u64;
    header.measures = vec!["loss".into()];
    header.sample_measures = header.measures.clone();
    let mut writer = RunWriter::open(folder.path(), &header).unwrap();
    let mut append = |key: PointKey, losses: &[f32]| {
        let n = losses.len() as f64;
        let value = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / n;
        let squares = losses.iter().map(|l| (f64::from(*l) - value).powi(2)).sum::<f64>();
        let (mut point, _) = crate::testing::point(&header, &key);
        let standard_error = (squares / (n - 1.0) / n).sqrt();
        point.measures = vec![Measure { name: "loss".into(), value, standard_error }];
        writer.append(point, &[losses], 0.0).unwrap();
    };
    append(PointKey::unpruned(), unpruned);
    for (method, seed, target, losses) in points {
        append(PointKey { method: method.to_string(), layer: None, seed: *seed, target: *target }, losses);
    }
    let run = Run::load(folder.path()).unwrap();
    (folder, run)
}

#[test]
fn relative_loss_is_paired_with_the_unpruned_model() {
    let mut noise = Noise::new(5);
    let unpruned: Vec<f32> = (0..200).map(|_| (4.0 * noise.next()) as f32).collect();
    // Twice the loss on every sample: the ratio is 2 whatever the samples, so its error is 0.
    let twice: Vec<f32> = unpruned.iter().map(|l| 2.0 * l).collect();
    let other: Vec<f32> = unpruned.iter().map(|l| l + noise.next() as f32).collect();
    let (folder, run) = run_of(&unpruned, &[("l1", None, 0.5, twice), ("l1", None, 0.6, other.clone())]);
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let points = &analysis.curves[0].points;
    assert_eq!((points[0].value.mean, points[0].value.standard_error), (1.0, 0.0));
    assert!((points[1].value.mean - 2.0).abs() < 1e-12);
    assert!(points[1].value.standard_error < 1e-9);
    // Against the spread over resampled data sets.
    let ratio = |picks: &[usize]| {
        let sum = |v: &[f32]| picks.iter().map(|i| f64::from(v[*i])).sum::<f64>();
        sum(&other) / sum(&unpruned)
    };
    let ratios: Vec<f64> = (0..2000)
        .map(|_| ratio(&(0..200).map(|_| (noise.next() * 200.0) as usize).collect::<Vec<_>>()))
        .collect();
    let mean = ratios.iter().sum::<f64>() / 2000.0;
    let deviation = (ratios.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 1999.0).sqrt();
    let error = points[2].value.standard_error;
    assert!((error / deviation - 1.0).abs() < 0.1, "{error} {deviation}");
    // Without the samples the error is that of two independent means, which is more.
    std::fs::remove_dir_all(folder.path().join(secateur::records::SAMPLES_FOLDER)).unwrap();
    let unpaired = Analysis::of(&run, FREE_THRESHOLD).unwrap().curves[0].points[2].value;
    assert_eq!(unpaired.mean, points[2].value.mean);
    assert!(unpaired.standard_error > 2.0 * error, "{unpaired:?}");
}

#[test]
fn seeds_make_mean_and_range() {
    let of = |l: f32| vec![l; 10];
    let points = [("random", Some(0), 0.5, of(2.0)), ("random", Some(1), 0.5, of(4.0))];
    let (_folder, run) = run_of(&of(1.0), &points);
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let curve = &analysis.curves[0];
    let value = curve.points[1].value;
    assert_eq!((curve.seeds, value.mean, value.low, value.high), (2, 3.0, 2.0, 4.0));
    assert!((value.standard_error - 1.0).abs() < 1e-12, "{value:?}"); // |4 − 2| / 2
    assert_eq!(curve.points[1].indices, [0, 1]);
}

#[test]
fn free_ends_at_the_first_crossing() {
    let of = |l: f32| vec![l; 4];
    let steps = [0.99, 1.005, 1.025, 1.0, 3.0];
    let points: Vec<_> =
        steps.iter().enumerate().map(|(i, l)| ("l1", None, 0.1 * (i + 1) as f64, of(*l))).collect();
    let (_folder, run) = run_of(&of(1.0), &points);
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let curve = &analysis.curves[0];
    // From 1.005 at 20 % to 1.025 at 30 %: 1.01 is a quarter of the way.
    assert!(curve.free.crossed && (curve.free.place - 2.25).abs() < 1e-4, "{:?}", curve.free);
    assert!((curve.free.sparsity - 0.225).abs() < 1e-3, "{:?}", curve.free);
    assert_eq!(curve.free.certain, curve.free.sparsity);
    assert!((curve.crossing(2.0).unwrap() - 4.5).abs() < 1e-5);
    assert_eq!(curve.crossing(5.0), None);
    let generous = Analysis::of(&run, 4.0).unwrap().curves[0].free;
    assert!(!generous.crossed && (generous.sparsity - 0.5).abs() < 1e-3, "{generous:?}");
}

#[test]
fn a_network_that_fails_altogether_crosses() {
    let (_folder, run) =
        run_of(&[1.0; 4], &[("l1", None, 0.1, vec![1.0; 4]), ("l1", None, 0.2, vec![f32::NAN; 4])]);
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let free = analysis.curves[0].free;
    assert!(free.crossed && free.place == 1.0, "{free:?}");
}

#[test]
fn methods_are_compared_sample_by_sample() {
    let mut noise = Noise::new(3);
    let unpruned: Vec<f32> = (0..100).map(|_| (4.0 * noise.next()) as f32).collect();
    let mut near = |add: f32, spread: f64| -> Vec<f32> {
        unpruned.iter().map(|l| l + add + (spread * noise.normal()) as f32).collect()
    };
    let points = [
        ("l1", None, 0.5, near(0.0, 0.01)),
        ("l1", None, 0.6, near(0.1, 0.01)),
        ("l1", None, 0.7, near(0.0, 0.01)),
        ("l1@global", None, 0.5, near(0.1, 0.01)),
        ("l1@global", None, 0.6, near(0.0, 0.01)),
        ("l1@global", None, 0.7, near(0.01, 1.0)),
        ("l1@global", None, 0.8, near(0.0, 1.0)),
    ];
    let (_folder, run) = run_of(&unpruned, &points);
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let pairing = &analysis.pairings[0];
    let verdicts: Vec<_> = pairing.comparisons.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [Verdict::First, Verdict::Second, Verdict::NoDifference]);
    assert_eq!(pairing.ranges(Verdict::First), [(0.5, 0.5)]);
    // Unpaired, a tenth would drown in the samples' own spread.
    let points = &analysis.curves[0].points;
    assert!(pairing.comparisons[0].difference < -0.04);
    assert!(pairing.comparisons[0].standard_error < 0.1 * points[1].measures[0].standard_error);
}

#[test]
fn without_labels_the_error_itself_counts() {
    let (_folder, run) = whole(&header(RunKind::Sweep, false));
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    assert_eq!(analysis.scale, Scale::Absolute);
    assert_eq!(analysis.curves.len(), 4);
    assert_eq!(analysis.curves[0].points[0].value.mean, 0.0);
    assert!(analysis.curves.iter().all(|c| c.fit.is_none() && c.points.len() == 7));
    assert_eq!(analysis.targets(), [0.1, 0.3, 0.5, 0.7, 0.8, 0.9]);
}

/// Points of version 0.1.0 counted all selected weights in `selected`, whichever layer was pruned alone.
#[test]
fn a_layer_pruned_alone_has_the_share_of_its_own_weights() {
    let header = header(RunKind::Sensitivity, true);
    let (_folder, run) = whole(&header);
    let mut old = run.clone();
    let all: u64 = header.layers.iter().filter(|l| l.selected).map(|l| l.weights).sum();
    for point in &mut old.points {
        let gone = point.selected.total - point.selected.nonzero;
        point.selected = Count { nonzero: all - gone, total: all };
    }
    for run in [&run, &old] {
        let analysis = Analysis::of(run, FREE_THRESHOLD).unwrap();
        for curve in &analysis.curves {
            for point in &curve.points {
                assert!((point.sparsity - point.target).abs() < 0.01, "{}: {point:?}", curve.name());
            }
        }
        // The made-up layers are the more sensitive the later they come, whatever their size.
        let order: Vec<&str> =
            analysis.by_sensitivity().into_iter().map(|i| analysis.curves[i].name()).collect();
        let expected: Vec<&str> = header.layers[..6].iter().rev().map(|l| l.name.as_str()).collect();
        assert_eq!(order, expected);
    }
}

#[test]
fn what_is_free_may_be_judged_by_accuracy() {
    let (_folder, run) = whole(&header(RunKind::Sweep, true));
    let free = |text: &str| {
        let analysis = Analysis::of(&run, text.parse::<Tolerance>().unwrap()).unwrap();
        (analysis.curves[0].free, analysis.harm(&run))
    };
    let (strict, harm) = free("top1:0.5pt");
    assert!(harm.starts_with("top-1 accuracy falls by 0.5 points"), "{harm}");
    // Most of what the worst point loses.
    let curve = &Analysis::of(&run, FREE_THRESHOLD).unwrap().curves[0];
    let top1 = |place: f64| curve.at(place, |p| p.measures[1].mean);
    let loss = 0.8 * (top1(0.0) - top1((curve.points.len() - 1) as f64));
    let (generous, _) = free(&format!("top1:{}pt", loss * 100.0));
    assert!(generous.crossed && strict.sparsity < generous.sparsity, "{strict:?} {generous:?}");
    assert!((top1(0.0) - top1(generous.place) - loss).abs() < 1e-9, "{generous:?}");
    let unknown = Analysis::of(&run, "top3:1pt".parse::<Tolerance>().unwrap()).unwrap_err().to_string();
    assert!(unknown.contains("top3") && unknown.contains("top1"), "{unknown}");
}

#[test]
fn nothing_is_judged_finer_than_the_standard_error() {
    let mut noise = Noise::new(11);
    let unpruned: Vec<f32> = (0..50).map(|_| (4.0 * noise.next()) as f32).collect();
    // Worse by 4 % on average, with an error of more than that: 4 % cannot be told from nothing.
    let worse: Vec<f32> = unpruned.iter().map(|l| 1.04 * l + (0.9 * noise.normal()) as f32).collect();
    let dead = vec![50.0; 50];
    let points = [("l1", None, 0.1, worse), ("l1", None, 0.2, dead)];
    let (_folder, run) = run_of(&unpruned, &points);
    let fine = Analysis::of(&run, 0.01).unwrap();
    let (free, error) = (fine.curves[0].free, fine.curves[0].points[1].harm.error);
    assert!(error > 0.04 && fine.curves[0].points[1].harm.excess < error, "{error}");
    assert!(free.crossed && free.place >= 1.0 && free.limited_by.is_some(), "{free:?}");
    assert!(fine.limits(&run).unwrap().contains("more samples"), "{:?}", fine.limits(&run));
    // Every place that says what is free names the standard error that decides.
    let error = fine.tolerance.amount_text(free.limited_by.unwrap());
    let (all, own) = (fine.harm(&run), fine.harm_of(&run, &fine.curves[0]));
    assert_eq!(own, format!("the loss rises by its standard error, {error}"));
    assert_eq!(
        all,
        format!("the loss rises by 1 % or its standard error (up to {error}), whichever is larger")
    );
    let mut page = Vec::new();
    crate::print_summary(&run, &fine, &mut page, 200, false).unwrap();
    assert!(String::from_utf8(page).unwrap().contains(&format!("free: before {all}")));
    // A tolerance that is coarser than all errors is what decides.
    let coarse = Analysis::of(&run, 100.0).unwrap();
    assert_eq!((coarse.curves[0].free.limited_by, coarse.limits(&run)), (None, None));
    assert_eq!(coarse.harm(&run), "the loss rises by 10000 %");
    assert_eq!(coarse.harm_of(&run, &coarse.curves[0]), coarse.harm(&run));
}

#[test]
fn points_that_were_timed_make_a_front() {
    let mut header = header(RunKind::Sweep, true);
    assert_eq!(Analysis::of(&whole(&header).1, FREE_THRESHOLD).unwrap().operating(&whole(&header).1), None);
    header.latency = Some(LatencySettings { batch: 1, threads: 2 });
    let (_folder, run) = whole(&header);
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let found = analysis.operating(&run).unwrap();
    assert_eq!(found.points.len(), analysis.curves.iter().map(|c| c.points.len() - 1).sum::<usize>());
    let front = found.front();
    assert!(front.len() > 1 && front.iter().all(|p| p.on_front));
    let mut slow = found.clone();
    slow.unpruned.on_front = false;
    for found in [&found, &slow] {
        let unpruned = |(_, p): &&(String, &OperatingPoint)| p.at.is_none();
        assert_eq!(found.shown().iter().filter(unpruned).count(), 1);
    }
    assert_eq!(slow.shown().last().map(|(number, p)| (number.as_str(), p.at)), Some(("", None)));
    for pair in front.windows(2) {
        assert!(pair[0].latency <= pair[1].latency && pair[0].value <= pair[1].value, "{pair:?}");
    }
    // The share is the median over rounds: it need not be the medians' quotient.
    let mut disagreeing = run.clone();
    for latency in
        disagreeing.points.iter_mut().chain([&mut disagreeing.unpruned]).filter_map(|p| p.latency.as_mut())
    {
        latency.unpruned *= 2.0;
    }
    let found = Analysis::of(&disagreeing, FREE_THRESHOLD).unwrap().operating(&disagreeing).unwrap();
    for point in found.points.iter().chain([&found.unpruned]) {
        let [least, most] = point.spread;
        assert!(least <= point.latency && point.latency <= most, "{point:?}");
    }
}

#[test]
fn a_sensitivity_run_has_a_curve_for_each_layer() {
    let header = header(RunKind::Sensitivity, true);
    let (_folder, run) = whole(&header);
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let names: Vec<_> = analysis.curves.iter().map(|c| c.name().to_string()).collect();
    assert_eq!(names, header.layers[..6].iter().map(|l| l.name.clone()).collect::<Vec<_>>());
    assert!(analysis.pairings.is_empty());
}
