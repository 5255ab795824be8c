//! Damaged ONNX files: an error, or a model that is whole; never a panic.

mod common;
#[path = "common/exercise.rs"]
mod exercise;

use common::*;

/// A model in which everything that the reader treats apart occurs.
fn everything() -> Msg {
    let body = msg()
        .msg(1, node("Add", &["x", "v"], &["z"]).unknown())
        .msg(5, raw_f32("v", &[2], &[1.0, 2.0]))
        .msg(12, info("z", 1, &[2]));
    let branch = |name| attr(name, 5).msg(6, body.clone());
    let sparse = msg().msg(1, raw_f32("s", &[1], &[1.])).msg(2, tensor("", 7, &[1]).ints(7, &[1])).int(3, 2);
    let function_body =
        node("Constant", &[], &["c"]).msg(5, attr("value", 4).msg(5, raw_f32("", &[2], &[3., 4.])));
    let function = msg()
        .text(1, "f")
        .text(10, "local")
        .text(4, "a")
        .text(5, "b")
        .text(6, "alpha")
        .msg(11, attr("default", 1).float(2, 1.0))
        .msg(7, function_body)
        .msg(7, node("Mul", &["a", "c"], &["m"]))
        .msg(7, node("LeakyRelu", &["m"], &["b"]).msg(5, attr("alpha", 1).text(21, "alpha")))
        .msg(9, msg().text(1, "").int(2, 17));
    let call = |from, to| node("f", &[from], &[to]).text(7, "local").msg(5, attr("alpha", 1).float(2, 0.5));
    let numbers = attr("value_floats", 6).floats(7, &[1., 2.]);
    let graph = msg()
        .msg(1, node("If", &["b"], &["i"]).msg(5, branch("then_branch")).msg(5, branch("else_branch")))
        .msg(1, call("i", "p"))
        .msg(1, call("p", "q"))
        .msg(1, node("Constant", &[], &["k"]).msg(5, numbers))
        .msg(1, node("Sum", &["q", "k", "s", "w", "h"], &["y"]).msg(5, attr("ints", 7).ints(8, &[1, 2])))
        .msg(5, tensor("w", 1, &[2]).floats(4, &[1., 2.]))
        .msg(5, tensor("h", 10, &[2]).ints(5, &[0x3c00, 0]))
        .msg(5, tensor("t", 8, &[2]).text(6, "a").text(6, "b"))
        .msg(15, sparse)
        .msg(11, info("x", 1, &[2]))
        .msg(11, info("b", 9, &[]))
        .msg(12, info("y", 1, &[2]))
        .msg(13, info("p", 1, &[2]));
    model(graph).msg(25, function).msg(14, msg().text(1, "key").text(2, "value")).unknown()
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_small_model() {
    let source = everything().0;
    exercise::model(&source);
    for end in 0..source.len() {
        exercise::model(&source[..end]);
    }
    let mut flipped = source;
    for at in 0..flipped.len() * 8 {
        flipped[at / 8] ^= 1 << (at % 8);
        exercise::model(&flipped);
        flipped[at / 8] ^= 1 << (at % 8);
    }
}

#[test]
fn damage_at_random_of_a_small_model() {
    let source = everything().0;
    let mut numbers = Numbers(1);
    for _ in 0..5_000 {
        exercise::model(&damage(&source, &mut numbers));
    }
}

#[test]
fn what_a_damaged_model_means_is_asked_without_panic() {
    let source = everything().0;
    let mut numbers = Numbers(3);
    for _ in 0..5_000 {
        exercise::meaning(&damage(&source, &mut numbers));
    }
    for path in shared_models() {
        let source = std::fs::read(&path).unwrap();
        for _ in 0..(6_000_000 / source.len()).clamp(1, 50) {
            exercise::meaning(&damage(&source, &mut numbers));
        }
    }
}

#[test]
fn damage_at_random_of_real_models() {
    let mut numbers = Numbers(2);
    for path in shared_models() {
        let source = std::fs::read(&path).unwrap();
        // Large models hold little but weights, in which damage shows nothing.
        for _ in 0..(6_000_000 / source.len()).clamp(1, 100) {
            exercise::model(&damage(&source, &mut numbers));
        }
    }
}
