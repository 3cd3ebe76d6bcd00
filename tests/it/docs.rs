//! Runs every console block of the README and of docs/ as it is, and compares the output.

use std::path::{Path, PathBuf};

use crate::common::{Place, tools};

/// Printed after every command, so that outputs can be told apart.
const MARK: &str = "\u{1e}";

/// One command of a block, and the lines that the document shows below it.
#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    output: String,
}

/// The commands of all console blocks: `$ ` starts one, `> ` continues it, the rest is output.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match (
                line.strip_prefix("$ "),
                line.strip_prefix("> "),
                steps.last_mut(),
            ) {
                (Some(command), ..) => steps.push(Step {
                    command: command.into(),
                    output: String::new(),
                }),
                (_, Some(more), Some(step)) => step.command.push_str(&format!("\n{more}")),
                (_, _, Some(step)) => step.output.push_str(&format!("{line}\n")),
                (_, _, None) => panic!("output before the first command: {line}"),
            }
        }
    }
    steps
}

/// A folder like a clone of the project, with what the documents need.
fn clone() -> Place {
    let place = Place::new();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["justfile", "justw"] {
        std::fs::copy(project.join(name), place.path(name)).unwrap();
    }
    for name in [".ci", "schema", "tests"] {
        std::os::unix::fs::symlink(project.join(name), place.path(name)).unwrap();
    }
    place
}

fn works_as_written(document: &Path) {
    let steps = steps(&std::fs::read_to_string(document).unwrap());
    let place = clone();
    let mut script = format!(
        "export RTP_BIN=$(command -v rtp) RTP_TOOLS_DIR='{}'\ntrap 'kill $(jobs -p) || true' EXIT\n",
        tools()
    );
    for step in &steps {
        script.push_str(&format!("{}\nprintf '{MARK}'\n", step.command));
    }
    let ran = place.bash(&script);
    let name = document.display();
    let outputs: Vec<&str> = ran.stdout.split_terminator(MARK).collect();
    assert_eq!(
        (ran.status, outputs.len()),
        (0, steps.len()),
        "{name} fails at {:?}: {}",
        steps.get(outputs.len().min(steps.len()).saturating_sub(1)),
        ran.stderr
    );
    for (step, output) in steps.iter().zip(outputs) {
        if !step.output.is_empty() {
            assert_eq!(output, step.output, "{name}: {}", step.command);
        }
    }
}

#[test]
fn the_readme_works_as_written() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    assert!(steps(&std::fs::read_to_string(&readme).unwrap()).len() > 10);
    works_as_written(&readme);
}

#[test]
fn the_documents_work_as_written() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let documents: Vec<PathBuf> = std::fs::read_dir(docs)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .collect();
    assert!(!documents.is_empty());
    for document in documents {
        works_as_written(&document);
    }
}

#[test]
fn blocks_are_read_as_commands_and_outputs() {
    let text = "a\n```console\n$ one\n1\n2\n$ two \\\n> more\n```\n```\nno command\n```\n";
    let step = |command: &str, output: &str| Step {
        command: command.into(),
        output: output.into(),
    };
    assert_eq!(
        steps(text),
        [step("one", "1\n2\n"), step("two \\\nmore", "")]
    );
}
