//! Ctrl-C during long work.

use crate::style;

/// The exit code of a command that Ctrl-C ended: 128 and the number of the signal.
const INTERRUPTED: i32 = 130;

/// Says a sentence where Ctrl-C ends the command.
pub(crate) fn say(sentence: String) {
    // Where signals cannot be handled the command ends without a word, as others do.
    let _ = ctrlc::set_handler(move || {
        style::interrupted(&sentence);
        std::process::exit(INTERRUPTED);
    });
}

/// Says how a run that records each point in a folder goes on.
pub(crate) fn say_resumes(folder: &std::path::Path) {
    say(format!("finished points are kept in {}; run the same command again to resume", folder.display()));
}
