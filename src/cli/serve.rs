//! `moorage serve`.

use std::io::Write as _;
use std::net::SocketAddr;

use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::config::Config;

/// Runs the gateway until a signal.
pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let app = App::start(config).await?;
    let address = app.address();
    // Whoever started it may listen no more: that is no reason not to serve.
    tell(&app, address).ok();
    if !address.ip().is_loopback() && !app.is_tls() {
        tracing::warn!(%address, "listening beyond this machine, without TLS: keys and conversations can be read on the way");
    }
    app.run(stop_signal()?).await;
    Ok(())
}

/// What a person is told at the start, on standard output.
fn tell(app: &App, address: SocketAddr) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    if let Some(key) = app.new_admin_key() {
        writeln!(
            out,
            "The admin key, for the page; it is shown only now:\n\n    {key}\n"
        )?;
    }
    let scheme = if app.is_tls() { "https" } else { "http" };
    writeln!(out, "moorage listening on {scheme}://{address}")?;
    if app.has_no_accounts() {
        writeln!(
            out,
            "No account is set up yet. Add one:\n\n    \
             moorage account add NAME --base-url https://api.openai.com/v1 --api-key-env VARIABLE\n"
        )?;
    }
    if app.has_no_client_keys() {
        writeln!(
            out,
            "No client key is set up yet. Make one:\n\n    moorage key add NAME\n"
        )?;
    }
    out.flush()
}

/// Ends with the first signal to stop. A second one ends the process at once.
pub(super) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let mut next = async move || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        tokio::spawn(async move {
            next().await;
            tracing::warn!("a second signal: ending at once");
            std::process::exit(130);
        });
    })
}
