//! The command that makes a report again.

use serde_json::Value;

use super::{RunHeader, RunKind};

/// The command behind a run: what its recipe says as flags, file names as they were given.
pub(super) fn of_run(header: &RunHeader) -> String {
    let name = match header.kind {
        RunKind::Sweep => "sweep",
        RunKind::Sensitivity => "sensitivity",
    };
    let threads = header.latency.as_ref().map(|latency| format!(" --threads {}", latency.threads));
    format!(
        "secateur {name} {}{}{} -o FOLDER",
        quoted(&header.model),
        flags(&header.recipe),
        threads.unwrap_or_default()
    )
}

/// A recipe as flags, each after a space.
pub(crate) fn flags(recipe: &Value) -> String {
    let mut text = String::new();
    for (key, value) in recipe.as_object().into_iter().flatten() {
        match value {
            Value::Object(section) => section.iter().for_each(|(key, value)| flag(key, value, &mut text)),
            value => flag(key, value, &mut text),
        }
    }
    text
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
        ("data", Value::Array(all)) => {
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
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./,:@+=%-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_flags() {
        let recipe = serde_json::json!({
            "seed": 3,
            "prune": { "ops": ["Conv", "Gemm"], "layer": ["a*=0.5", "b=0.9"], "weights-only": true },
            "data": { "data": ["x.npz", "it's y.npz"], "mean": [0.5, 0.25], "crop": [224, 320] },
            "sweep": { "free": "top1:1pt", "no-sizes": false },
        });
        let flags = flags(&recipe);
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
        assert_eq!(super::flags(&Value::Null), "");
    }
}
