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
            eprintln!("moorage: {error:#}");
            ExitCode::FAILURE
        }
    }
}
