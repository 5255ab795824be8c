//! What was timed: a table, and the panels of a figure.

use secateur::bench::{Bench, OURS, Predicted};
use secateur::format::{self, milliseconds};
use secateur::text::counted;

use crate::figures::{SpeedPanel, SpeedSeries};
use crate::terminal::{Align, Table};

/// A prediction beside what was measured: `46.3 ms (−2.9 %)`.
pub(crate) fn predicted(found: Predicted) -> String {
    let sign = if found.off < 0.0 { "−" } else { "+" };
    format!("{} ({sign}{})", milliseconds(found.seconds), format::percent(found.off.abs()))
}

/// Where and with what it was measured, in one line.
pub fn environment(found: &Bench) -> String {
    let runtimes: Vec<String> = found
        .runtimes
        .iter()
        .map(|runtime| {
            if runtime.name == OURS {
                format!("{OURS} {} ({})", runtime.version, found.instruction_set)
            } else {
                format!("{} {}", runtime.name, runtime.version)
            }
        })
        .collect();
    format!("{}; {}; {}, {}", runtimes.join(", "), found.precision, found.cpu, counted(found.cores, "core"))
}

/// What speed-ups are over.
pub fn reference_name(found: &Bench) -> String {
    let model = found.versions.first().map_or("", |v| v.model.as_str());
    match found.runtimes.len() {
        1 => format!("unpruned {model}"),
        2 => format!("unpruned {model} in {}", found.runtimes[1].name),
        _ => format!("unpruned {model} in the fastest other runtime"),
    }
}

/// All times, a row each.
pub fn table(found: &Bench) -> Table {
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("zeros", Align::Right),
        ("MACs", Align::Right),
        ("runtime", Align::Left),
        ("batch", Align::Right),
        ("threads", Align::Right),
        ("median", Align::Right),
        ("best", Align::Right),
        ("predicted", Align::Right),
        ("p10–p90", Align::Right),
        ("samples/s", Align::Right),
        ("speed-up", Align::Right),
        ("best speed-up", Align::Right),
        ("sparse layers", Align::Right),
        ("memory", Align::Right),
        ("file", Align::Right),
    ])
    .without_if_narrow(&[
        "best speed-up",
        "file",
        "samples/s",
        "memory",
        "MACs",
        "sparse layers",
        "p10–p90",
        "batch",
        "threads",
        "predicted",
        // What is predicted is the best time.
        "best",
    ]);
    let single = found.versions.iter().all(|version| version.model == found.versions[0].model);
    for timing in &found.timings {
        let version = &found.versions[timing.version];
        let times = timing.latency;
        // A single model is named above the table.
        let name = match &version.method {
            Some(method) if single => method.clone(),
            None if single => "unpruned".into(),
            Some(method) => format!("{} {method}", version.model),
            None => version.model.clone(),
        };
        table.row([
            name,
            format::percent(version.sparsity),
            version.macs.map_or_else(String::new, format::percent),
            timing.runtime.clone(),
            timing.batch.to_string(),
            timing.threads.to_string(),
            milliseconds(times.median),
            milliseconds(times.best),
            timing.predicted.map_or_else(String::new, predicted),
            format!("{}–{}", format::number(times.p10 * 1e3), format::number(times.p90 * 1e3)),
            format::number(timing.throughput),
            format!("{}×", format::number(timing.speedup_median)),
            format!("{}×", format::number(timing.speedup_best)),
            timing.sparse_layers.map_or_else(String::new, |count| count.to_string()),
            timing.memory.map_or_else(String::new, |bytes| format::bytes(bytes as f64)),
            format::bytes(version.bytes as f64),
        ]);
    }
    table
}

/// What its panels show.
pub(crate) fn speed_panels(found: &Bench) -> Vec<SpeedPanel> {
    let panel = |setting: (usize, usize)| {
        let reference = found.reference(setting, |t| t.median);
        let series = found.runtimes.iter().map(|runtime| {
            let timings = found.of(setting).filter(|t| t.runtime == runtime.name);
            let mut points: Vec<[f64; 4]> = timings
                .map(|t| {
                    let [low, high] = [t.latency.p90, t.latency.p10].map(|time| reference / time);
                    [found.versions[t.version].sparsity, t.speedup_median, low, high]
                })
                .collect();
            points.sort_by(|a, b| a[0].total_cmp(&b[0]));
            SpeedSeries { name: runtime.name.clone(), points }
        });
        let (batch, threads) = setting;
        let title = format!("batch {batch}, {}", counted(threads, "thread"));
        SpeedPanel { title, series: series.collect() }
    };
    found.settings().into_iter().map(panel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up() -> Bench {
        let mut bench = crate::testing::bench();
        bench.compare();
        bench
    }

    #[test]
    fn the_table_says_everything() {
        let mut out = Vec::new();
        table(&made_up()).write(&mut out, 200, false).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        model     zeros   MACs  runtime       batch  threads   median     best       predicted    p10–p90  samples/s  speed-up  best speed-up  sparse layers   memory     file
        unpruned    0 %  100 %  secateur          1        2  8.00 ms  7.20 ms                  7.36–8.64        125     1.00×          1.00×              0           1.00 MB
        unpruned    0 %  100 %  ONNX Runtime      1        2  10.0 ms  9.00 ms                  9.20–10.8        100    0.800×         0.800×                 5.00 MB  1.00 MB
        unpruned    0 %  100 %  OpenVINO          1        2  8.00 ms  7.20 ms                  7.36–8.64        125     1.00×          1.00×                 5.00 MB  1.00 MB
        l1         90 %   10 %  secateur          1        2  2.00 ms  1.80 ms  1.90 ms (−5 %)  1.84–2.16        500     4.00×          4.00×              7           1.00 MB
        ");
        insta::assert_snapshot!(
            environment(&made_up()),
            @"secateur 1.2 (avx2), ONNX Runtime 1.2, OpenVINO 1.2; f32; Example CPU, 2 cores"
        );
        assert_eq!(reference_name(&made_up()), "unpruned model.onnx in the fastest other runtime");
    }
}
