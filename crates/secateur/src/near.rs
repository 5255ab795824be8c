//! Suggestions for mistyped names.

use secateur_model::text::quoted;

/// Names up to which all are listed.
const FEW: usize = 16;

/// For an error message: the near matches of `text`, or, where there are none, all names.
/// Begins with `; `; empty where there are no names.
pub fn did_you_mean<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return String::new();
    }
    let lower = text.to_lowercase();
    let mut near: Vec<(f64, &str)> = names
        .iter()
        .map(|&name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name))
        .filter(|&(likeness, _)| likeness > 0.84)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    if near.is_empty() {
        // All of a short list: which one is left out would be the one that is looked for.
        if names.len() <= FEW {
            format!("; there are {}", names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "))
        } else {
            format!("; there are {}", quoted(names))
        }
    } else {
        let near: Vec<&str> = near.iter().take(3).map(|&(_, name)| name).collect();
        format!("; did you mean {}?", near.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn near_names_come_first_and_all_names_otherwise() {
        let names = ["Conv", "Gemm", "MatMul"];
        assert_eq!(did_you_mean("conv", names), "; did you mean `Conv`?");
        assert_eq!(did_you_mean("Linear", names), "; there are `Conv`, `Gemm`, `MatMul`");
        assert_eq!(did_you_mean("x", []), "");
    }
}
