//! Reads the arguments and runs a command; the only exit.

use std::process::ExitCode;

use clap::Parser as _;
use moorage::cli::Arguments;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("moorage: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, without those that it has told itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
