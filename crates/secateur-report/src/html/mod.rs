//! A run or a model as one page without any connection to the network: the figures inline, the font inside.

mod bench;
mod inspection;
mod lottery;
mod page;
mod sensitivity;
mod sizes;
mod sweep;
mod tables;
mod training;

use secateur::inspect::Inspection;
use secateur::records::{Run, RunKind};

use super::analysis::Analysis;

/// The page of a run. It is a function of the run alone: no times, no folders.
pub(super) fn report(run: &Run, analysis: &Analysis) -> String {
    match run.header.kind {
        RunKind::Sweep => sweep::page(run, analysis),
        RunKind::Sensitivity => sensitivity::page(run, analysis),
    }
}

/// The page of timings: a function of what was measured alone.
pub(crate) fn bench(found: &secateur::bench::Bench) -> String {
    bench::page(found)
}

/// The page of file sizes: a function of what was measured alone.
pub(crate) fn sizes(found: &secateur::sizes::Sizes) -> String {
    sizes::page(found)
}

/// The page of lottery tickets: a function of what was measured alone.
pub(crate) fn lottery(found: &secateur::lottery::Lottery, tickets: &crate::lottery::Tickets) -> String {
    lottery::page(found, tickets)
}

/// The page of a training: a function of its log alone.
pub(crate) fn training(found: &crate::training::Training) -> String {
    training::page(found)
}

/// The page of a model: a function of what was found alone.
pub(super) fn inspection(found: &Inspection) -> String {
    inspection::page(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::FREE_THRESHOLD;
    use crate::testing::{header, run_of};
    use secateur::inspect::{PatternFound, TensorInfo, ValueInfo};
    use secateur::measure::{Bytes, Count};
    use secateur::records::{RunHeader, RunKind};

    fn page(header: &RunHeader) -> String {
        let (_folder, run) = run_of(header);
        report(&run, &Analysis::of(&run, FREE_THRESHOLD).unwrap())
    }

    /// Elements, in order, of a page whose tags are balanced and whose attributes are quoted.
    fn elements(html: &str) -> Vec<String> {
        const VOID: [&str; 3] = ["meta", "input", "br"];
        let mut open: Vec<String> = Vec::new();
        let mut all = Vec::new();
        let mut rest = html.strip_prefix("<!doctype html>").unwrap();
        while let Some(at) = rest.find('<') {
            rest = &rest[at..];
            let raw = open.last().filter(|name| ["script", "style"].contains(&name.as_str()));
            if let Some(name) = raw
                && !rest.starts_with(&format!("</{name}>"))
            {
                rest = &rest[1..];
                continue;
            }
            let mut end = 1;
            let mut quoted = false;
            for c in rest[1..].chars() {
                match c {
                    '"' => quoted = !quoted,
                    '<' => assert!(quoted, "a tag in a tag: {}", &rest[..end]),
                    '>' if !quoted => break,
                    _ => {}
                }
                end += c.len_utf8();
            }
            let tag = &rest[1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap();
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric()), "<{tag}>");
            all.push(name.to_string());
            if !VOID.contains(&name) && !tag.ends_with('/') {
                open.push(name.to_string());
            }
        }
        assert!(open.is_empty(), "{open:?}");
        all
    }

    #[test]
    fn lottery_tickets_have_figures_levels_and_the_command() {
        let found = crate::lottery::tests::made_up();
        let html = lottery(&found, &crate::lottery::Tickets::of(&found).unwrap());
        let all = elements(&html);
        assert_eq!(all.iter().filter(|name| *name == "figure").count(), 3 + 3);
        assert_eq!(all.iter().filter(|name| *name == "tr").count(), 1 + 1 + 3 * 3);
        assert!(html.contains("keeps 25\u{a0}% of the weights"), "{html}");
        for flag in ["--net lenet-300-100", "--layer 'fc3*=0.1'", "--epochs 2000it", "--test t10k.gz"] {
            assert!(html.contains(&flag.replace('\'', "&#39;")) || html.contains(flag), "{flag}");
        }
    }

    #[test]
    fn a_training_has_its_course_its_evaluations_and_the_command() {
        let found = crate::training::tests::made_up();
        let html = training(&found);
        let all = elements(&html);
        // Loss, accuracy, sparsity and rate; four evaluations, two prunings and a repair.
        assert_eq!(all.iter().filter(|name| *name == "figure").count(), 4);
        assert_eq!(all.iter().filter(|name| *name == "tr").count(), 1 + 4 + 3);
        for said in ["pruned to 74\u{a0}% zeros at iteration 250", "--schedule cubic", "--hold-out 0.1"] {
            assert!(html.contains(said) || html.contains(&said.replace('\u{a0}', " ")), "{said}");
        }
        let dense = crate::training::Training {
            lines: found.lines.into_iter().take(5).collect(),
            ..crate::training::tests::made_up()
        };
        let all = elements(&training(&dense));
        assert_eq!(all.iter().filter(|name| *name == "figure").count(), 3);
        assert!(!all.contains(&"table".to_string()));
    }

    const BYTES: Bytes =
        Bytes { raw: 300_000, gzip: 200_000, zstd: 210_000, packed: Some(205_000), entropy: 190_000.5 };

    /// What is found in a made-up model: with zeros in patterns, or dense; from a graph, or from a checkpoint.
    fn found(zeros: bool, has_graph: bool) -> Inspection {
        let header = header(RunKind::Sweep, true);
        let (mut tensors, mut prunable) = (Vec::new(), Count::default());
        for layer in &header.layers {
            let zeros = if zeros { layer.weights / 4 } else { 0 };
            let count = Count { nonzero: layer.weights - zeros, total: layer.weights };
            prunable.nonzero += count.nonzero;
            prunable.total += count.total;
            tensors.push(TensorInfo {
                path: layer.name.clone(),
                name: layer.name.clone(),
                op: Some(layer.op.clone()),
                node: None,
                module: None,
                shape: layer.shape.iter().map(|&d| d as usize).collect(),
                dtype: "f32".into(),
                count,
                macs: has_graph.then_some(layer.macs),
                reason: None,
                reason_kind: None,
                histogram: Some(layer.histogram.clone()),
                pattern: (zeros > 0).then(|| PatternFound {
                    output_channels: Some(Count { nonzero: 12, total: 16 }),
                    ..PatternFound::default()
                }),
                bytes: (zeros > 0).then_some(BYTES),
            });
        }
        tensors.push(TensorInfo {
            path: "bn1.weight".into(),
            name: String::new(),
            op: None,
            macs: None,
            reason: Some("the scale of a batch-norm".into()),
            reason_kind: Some("normalisation".into()),
            histogram: None,
            pattern: None,
            bytes: None,
            ..tensors[0].clone()
        });
        let value = |name: &str| ValueInfo {
            name: name.into(),
            dtype: "f32".into(),
            declared: "[batch, 3, 32, 32]".into(),
            shape: None,
        };
        Inspection {
            model: header.model.clone(),
            format: "ONNX, IR version 8".into(),
            producer: "pytorch".into(),
            inputs: has_graph.then(|| value("image")).into_iter().collect(),
            outputs: has_graph.then(|| value("logits")).into_iter().collect(),
            operators: has_graph.then(|| ("Conv".to_string(), 6)).into_iter().collect(),
            unknown_operators: has_graph.then(|| "Strange".to_string()).into_iter().collect(),
            tensors,
            parameters: prunable,
            prunable,
            macs: has_graph.then_some(10_000_000),
            effective_macs: has_graph.then_some(7_000_000),
            tensor_bytes: 4 * prunable.total,
            bytes: zeros.then_some(BYTES),
            problems: has_graph.then(|| "node `a`".to_string()).into_iter().collect(),
            metadata: vec![
                ("secateur.recipe".into(), r#"{"prune":{"method":"l1"}}"#.into()),
                ("secateur.seed".into(), "0".into()),
            ],
            unscanned: false,
            contradictions: Vec::new(),
        }
    }

    fn loads_nothing(html: &str) {
        for word in ["http://", "https://", "@import", " href=", "NaN\"", "undefined"] {
            let at = html.find(word).map(|i| &html[i.saturating_sub(60)..i + 20]);
            assert_eq!(at, None, "{word}");
        }
        assert_eq!(html.matches("src=").count(), 0);
        assert_eq!(html.matches("url(").count(), html.matches("url(data:font").count());
    }

    #[test]
    fn models_have_a_page_that_is_well_formed_and_loads_nothing() {
        for (zeros, has_graph) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut found = found(zeros, has_graph);
            let html = inspection(&found);
            let all = elements(&html);
            assert!(!all.contains(&"script".to_string()));
            assert_eq!(all.iter().filter(|e| *e == "svg").count(), found.layers().count());
            assert_eq!(html.matches("<i style=\"width:25.0%\"></i>").count() > 0, zeros);
            assert_eq!(html.contains("MACs"), has_graph);
            assert_eq!(html.contains("out 4/16"), zeros);
            assert_eq!(html.contains("Sizes of the layers"), zeros);
            loads_nothing(&html);
            found.unscanned = true;
            found.tensors.clear();
            elements(&inspection(&found));
        }
        elements(&inspection(&Inspection { prunable: Count::default(), ..found(false, false) }));
    }

    #[test]
    fn names_in_a_model_are_harmless() {
        let plain = elements(&inspection(&found(true, true)));
        let mut found = found(true, true);
        for t in &mut found.tensors {
            t.path = format!("{EVIL}{}", t.path);
            t.name.clone_from(&t.path);
            t.op = Some(EVIL.into());
            t.dtype = EVIL.into();
            t.reason = t.reason.as_ref().map(|_| EVIL.into());
        }
        for v in found.inputs.iter_mut().chain(&mut found.outputs) {
            (v.name, v.dtype, v.declared) = (EVIL.into(), EVIL.into(), EVIL.into());
        }
        for text in [&mut found.model, &mut found.format, &mut found.producer] {
            *text = EVIL.into();
        }
        found.operators[0].0 = EVIL.into();
        found.unknown_operators = vec![EVIL.into()];
        found.problems = vec![EVIL.into()];
        for recipe in [EVIL.to_string(), serde_json::json!({ EVIL: EVIL }).to_string()] {
            found.metadata = vec![("secateur.recipe".into(), recipe), (EVIL.into(), EVIL.into())];
            let html = inspection(&found);
            assert!(!html.contains('\u{1b}'));
            assert_eq!(elements(&html), plain);
        }
    }

    #[test]
    fn pages_are_well_formed_and_load_nothing() {
        for (kind, labels) in [(RunKind::Sweep, true), (RunKind::Sweep, false), (RunKind::Sensitivity, true)]
        {
            let html = page(&header(kind, labels));
            let elements = elements(&html);
            assert_eq!(elements.iter().filter(|e| *e == "script").count(), 2);
            assert!(elements.iter().filter(|e| *e == "svg").count() >= 1);
            loads_nothing(&html);
        }
    }

    const EVIL: &str =
        "</script></style><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;\u{1b}[2J";

    #[test]
    fn names_are_harmless() {
        for kind in [RunKind::Sweep, RunKind::Sensitivity] {
            let plain = elements(&page(&header(kind, true)));
            let mut header = header(kind, true);
            for layer in &mut header.layers {
                layer.name = format!("{EVIL}{}", layer.name);
                layer.op = EVIL.into();
            }
            header.model = EVIL.into();
            header.data = EVIL.into();
            header.environment.cpu = EVIL.into();
            header.recipe = serde_json::json!({ EVIL: EVIL });
            header.measures[1] = EVIL.into();
            header.sample_measures = vec!["loss".into(), EVIL.into()];
            let html = page(&header);
            assert!(!html.contains('\u{1b}'));
            let evil = elements(&html);
            assert!(!evil.contains(&"img".to_string()));
            assert_eq!(evil.iter().filter(|e| *e == "script").count(), 2);
            if kind == RunKind::Sensitivity {
                assert_eq!(evil, plain);
            }
        }
    }

    #[test]
    fn the_same_run_gives_the_same_page() {
        let header = header(RunKind::Sweep, true);
        assert_eq!(page(&header), page(&header));
    }

    #[test]
    fn a_run_that_has_only_begun_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        for points in [1, 2, 4] {
            crate::testing::sweep(folder.path(), &header(RunKind::Sweep, true), points).unwrap();
            let run = Run::load(folder.path()).unwrap();
            elements(&report(&run, &Analysis::of(&run, FREE_THRESHOLD).unwrap()));
        }
    }
}
