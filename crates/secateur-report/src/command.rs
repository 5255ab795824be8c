//! The command that makes a report again.

use secateur::records::{RunHeader, RunKind};
use serde_json::Value;

/// The command behind a run: what its recipe says as flags, file names as they were given.
pub(crate) fn of_run(header: &RunHeader) -> String {
    let name = match header.kind {
        RunKind::Sweep => "sweep",
        RunKind::Sensitivity => "sensitivity",
    };
    let threads = header.latency.as_ref().map(|latency| format!(" --threads {}", latency.threads));
    format!(
        "secateur {name} {}{}{} -o FOLDER",
        quoted(&header.model),
        flags(name, &header.recipe),
        threads.unwrap_or_default()
    )
}

/// What of a recipe a command takes, as flags, each after a space: a recipe may say more than one command has flags for.
pub fn flags(command: &str, recipe: &Value) -> String {
    let section = |name: &str| recipe[name].as_object().into_iter().flatten();
    let taken = |name: &'static str| section(name).filter(move |(key, _)| takes(command, name, key));
    let own: Vec<&String> = taken("sweep").map(|(key, _)| key).collect();
    // A sweep's own methods and steps stand before what is said for all commands.
    let said = taken("prune").filter(|(key, _)| match key.as_str() {
        "method" => !own.contains(key),
        "sparsity" => !own.iter().any(|key| matches!(key.as_str(), "step" | "max")),
        _ => true,
    });
    let mut text = String::new();
    ["seed", "graph", "unused"].iter().for_each(|key| flag(key, &recipe[*key], &mut text));
    let sections = ["data", "calibrate", "sweep", "train", "lottery"];
    said.chain(sections.into_iter().flat_map(taken)).for_each(|(key, value)| flag(key, value, &mut text));
    text
}

/// Whether a command that prunes only to measure has a flag of a section.
fn takes(command: &str, section: &str, key: &str) -> bool {
    let kept = matches!(key, "count" | "masks" | "keep-originals");
    match (section, command) {
        ("prune", "finetune") => key != "keep-originals" && key != "count",
        ("data" | "calibrate" | "train", "finetune") => true,
        ("prune", "sweep") => !kept && key != "mask",
        ("prune", "sensitivity") => !kept && !matches!(key, "mask" | "layer"),
        ("prune", _) => !kept,
        ("data" | "calibrate" | "train" | "lottery", "lottery") => true,
        ("data" | "calibrate", _) => matches!(command, "sweep" | "sensitivity"),
        ("sweep", "sweep") => true,
        ("sweep", "sensitivity") => matches!(key, "step" | "max" | "free" | "threshold" | "repair"),
        ("sweep", "sizes") => matches!(key, "method" | "step" | "max"),
        _ => false,
    }
}

/// A flag with its value. Lists stand behind one flag, parted as it reads them, or behind one flag each.
fn flag(key: &str, value: &Value, text: &mut String) {
    let one = |value: &Value| match value {
        Value::String(words) => words.clone(),
        other => other.to_string(),
    };
    let mut add = |value: &str| *text += &format!(" --{key} {value}");
    match (key, value) {
        (_, Value::Null | Value::Bool(false)) => {}
        (_, Value::Bool(true)) => *text += &format!(" --{key}"),
        ("layer" | "mask", Value::Array(all)) => all.iter().for_each(|value| add(&quoted(&one(value)))),
        ("data" | "calibrate" | "validation" | "test", Value::Array(all)) => {
            add(&all.iter().map(|value| quoted(&one(value))).collect::<Vec<_>>().join(" "));
        }
        (_, Value::Array(all)) => {
            let between = if key == "crop" { "x" } else { "," };
            add(&quoted(&all.iter().map(one).collect::<Vec<_>>().join(between)));
        }
        (_, value) => add(&quoted(&one(value))),
    }
}

/// A word as a shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./,:@+=%-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_the_flags_that_it_has() {
        let recipe = serde_json::json!({
            "graph": "model.onnx",
            "prune": { "method": "l2", "sparsity": 0.8, "keep-originals": true, "mask": ["m.npz"], "layer": ["a=0.5"] },
            "data": { "data": ["x.npz"] },
            "calibrate": { "calibrate": ["c.npz", "d.npz"] },
            "sweep": { "method": ["l1", "random"], "step": 0.1, "random-seeds": 2 },
        });
        for (command, expected) in [
            (
                "sweep",
                " --graph model.onnx --layer a=0.5 --data x.npz --calibrate c.npz d.npz --method l1,random --random-seeds 2 --step 0.1",
            ),
            (
                "sensitivity",
                " --graph model.onnx --method l2 --data x.npz --calibrate c.npz d.npz --step 0.1",
            ),
            ("sizes", " --graph model.onnx --layer a=0.5 --mask m.npz --method l1,random --step 0.1"),
            ("bench", " --graph model.onnx --layer a=0.5 --mask m.npz --method l2 --sparsity 0.8"),
        ] {
            let words = |text: &str| {
                let mut flags: Vec<String> = text.split(" --").map(str::to_string).collect();
                flags.sort();
                flags
            };
            assert_eq!(words(&flags(command, &recipe)), words(expected), "{command}");
        }
    }

    #[test]
    fn recipes_are_flags() {
        let recipe = serde_json::json!({
            "seed": 3,
            "prune": { "ops": ["Conv", "Gemm"], "layer": ["a*=0.5", "b=0.9"], "weights-only": true },
            "data": { "data": ["x.npz", "it's y.npz"], "mean": [0.5, 0.25], "crop": [224, 320] },
            "sweep": { "free": "top1:1pt", "no-sizes": false },
        });
        let flags = flags("sweep", &recipe);
        for flag in [
            " --seed 3",
            " --ops Conv,Gemm",
            " --layer 'a*=0.5' --layer b=0.9",
            " --weights-only",
            r" --data x.npz 'it'\''s y.npz'",
            " --mean 0.5,0.25",
            " --crop 224x320",
            " --free top1:1pt",
        ] {
            assert!(flags.contains(flag), "{flag}: {flags}");
        }
        assert!(!flags.contains("no-sizes"));
        assert_eq!(super::flags("sweep", &Value::Null), "");
    }
}
