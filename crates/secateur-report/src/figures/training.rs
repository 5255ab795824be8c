//! The course of a training: measures, sparsity and learning rate against iterations.

use secateur::format;
use secateur::records::{Event, LogLine, Logged, MeasuredOn};

use super::super::draw::Drawing;
use super::super::training::Training;
use super::axes::Axis;
use super::lines::{Frame, Line, later, padded, panel, short, spread};
use super::panels::{GAP, grid};

/// Loss, accuracy, sparsity and learning rate against iterations, a panel for each that there is.
pub fn training_figure(training: &Training) -> Drawing {
    grid(format!("Training of {}", training.model), training_panels(training), (2, GAP), 0.0)
}

/// The panels of [`training_figure`].
pub(in super::super) fn training_panels(training: &Training) -> Vec<Drawing> {
    let end = training.lines.last().map_or(1.0, |line| line.iteration as f64).max(1.0);
    let marks: Vec<(f64, String)> = training
        .lines
        .iter()
        .filter(|line| matches!(line.what, Logged::Changed { event: Event::Pruned }))
        .map(|line| {
            let (to, at) = (format::percent(line.sparsity), format::grouped(line.iteration as i64));
            (line.iteration as f64, format!("pruned to {to} zeros at iteration {at}"))
        })
        .collect();
    let draw = |title: String, lines: Vec<Line>, y: Axis, share: bool, marks: &[(f64, String)]| {
        let said = format!("{title} against iterations");
        let x = Axis::linear(0.0, end);
        let frame = Frame { title: &title, said: &said, x, y, x_title: "iterations", share, marks };
        panel(&frame, &lines, &short)
    };
    let mut panels = Vec::new();
    let loss = training.loss().unwrap_or("loss");
    for (name, title, share) in
        [(loss, format::capital(format::measure(loss)), false), ("top1", "Top-1 accuracy, %".into(), true)]
    {
        let lines = [
            line("training", 0, training.measured(MeasuredOn::Training, name)),
            line("validation", 1, training.measured(MeasuredOn::Validation, name)),
        ];
        let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
        if !lines.is_empty() {
            let y = padded(later(lines.iter(), end), share);
            panels.push(draw(title, lines, y, share, &marks));
        }
    }
    if !marks.is_empty() {
        let sparsity = stairs(&training.lines, |line| line.sparsity);
        panels.push(draw("Sparsity, %".into(), vec![sparsity], Axis::linear(0.0, 1.0), true, &[]));
    }
    let rate = training.lines.iter().filter(|line| line.iteration > 0);
    let rate = line("learning rate", 0, rate.map(|line| (line.iteration as f64, line.rate)).collect());
    let highest = spread(rate.points.iter().map(|p| p[1])).1.max(f64::MIN_POSITIVE);
    panels.push(draw("Learning rate".into(), vec![rate], Axis::linear(0.0, 1.05 * highest), false, &[]));
    panels
}

fn line(name: &str, slot: usize, points: Vec<(f64, f64)>) -> Line {
    let points = points.into_iter().map(|(x, y)| [x, y, y, y]).collect();
    Line { name: name.into(), slot, points, marked: false }
}

/// A line that keeps its height up to where the next one begins.
fn stairs(lines: &[LogLine], height: impl Fn(&LogLine) -> f64) -> Line {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for own in lines {
        let (x, y) = (own.iteration as f64, height(own));
        let before = points.last().map(|last| (x, last.1));
        points.extend(before);
        points.push((x, y));
    }
    line("sparsity", 0, points)
}
