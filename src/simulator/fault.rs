//! How a simulated account is told to misbehave, as text: `status=429;retry_after=2`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::parse_duration;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident: $kind:ident,)*) => {
        /// What a simulated account does other than usual with a request. Several can be combined.
        ///
        /// As text, in the header `x-simulate` or the control endpoint: the names below, each with
        /// its value behind `=`, separated by `;`. What is a switch is written without a value.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Fault {
            $($(#[$doc])* pub $name: faults!(@type $kind),)*
        }

        impl Fault {
            fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
                match name {
                    $(stringify!($name) => self.$name = faults!(@read $kind, name, value),)*
                    _ => return Err(format!("unknown fault '{name}'")),
                }
                Ok(())
            }
        }

        impl fmt::Display for Fault {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                $(faults!(@write $kind, self.$name, stringify!($name), f, separator);)*
                let _ = separator;
                Ok(())
            }
        }
    };
    (@type switch) => { bool };
    (@type number) => { Option<usize> };
    (@type word) => { Option<String> };
    (@type time) => { Option<Duration> };
    (@read switch, $name:expr, $value:expr) => {
        match $value {
            None => true,
            Some(_) => return Err(format!("'{}' takes no value", $name)),
        }
    };
    (@read number, $name:expr, $value:expr) => {
        Some($value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("'{}' takes a number", $name))?)
    };
    (@read word, $name:expr, $value:expr) => {
        Some($value.ok_or_else(|| format!("'{}' takes a word", $name))?.to_owned())
    };
    (@read time, $name:expr, $value:expr) => {
        Some(parse_duration($value.unwrap_or_default()).map_err(|error| format!("'{}': {error}", $name))?)
    };
    (@write switch, $field:expr, $name:expr, $f:expr, $separator:ident) => {
        if $field {
            write!($f, "{}{}", $separator, $name)?;
            $separator = ";";
        }
    };
    (@write time, $field:expr, $name:expr, $f:expr, $separator:ident) => {
        if let Some(value) = &$field {
            write!($f, "{}{}={}us", $separator, $name, value.as_micros())?;
            $separator = ";";
        }
    };
    (@write $kind:ident, $field:expr, $name:expr, $f:expr, $separator:ident) => {
        if let Some(value) = &$field {
            write!($f, "{}{}={}", $separator, $name, value)?;
            $separator = ";";
        }
    };
}

faults! {
    /// Answers with this error status.
    status: number,
    /// The code of the error, with `status`; a fitting one without.
    code: word,
    /// Adds `Retry-After` in seconds, as written.
    retry_after: word,
    /// Refuses an upgrade to WebSocket with this status; with 101 it is accepted, and with `slow` late.
    /// Such a fault waits for an upgrade.
    upgrade: number,
    /// Closes a WebSocket with this code instead of an answer.
    close: number,
    /// Waits before it answers.
    slow: time,
    /// Never answers.
    hang: switch,
    /// Closes the connection without an answer.
    cut_before: switch,
    /// Waits between two deltas.
    delta_delay: time,
    /// Cuts the text into this many deltas.
    deltas: number,
    /// Makes the text of the answer this long.
    output_bytes: number,
    /// Fails inside a 200 stream with this code, before any output.
    fail_in_stream: word,
    /// Together with `fail_in_stream`: after this many deltas instead.
    fail_after: number,
    /// Fails inside a 200 stream with an `error` event, flat as it is documented.
    error_event: switch,
    /// The same, nested as it is observed.
    nested_error_event: switch,
    /// Cuts the connection after this many events.
    cut_after: number,
    /// Cuts the connection in the middle of a JSON answer.
    cut_json: switch,
    /// Ends a stream in good order, without its terminal event.
    end_without_terminal: switch,
    /// Sends `response.created` and nothing more.
    only_created_then_hang: switch,
    /// Ends as `incomplete`.
    incomplete: switch,
    /// Ends as `cancelled`.
    cancelled: switch,
    /// Mixes in events of unknown types and unknown fields.
    unknown_events: switch,
    /// Leaves the code of an unreadable seal out, as some upstreams do.
    null_code: switch,
    /// Says what it refuses as an event inside a 200 stream.
    refuse_in_stream: switch,
    /// Withholds reasoning that it cannot read from its model, and says so, instead of refusing it.
    withhold_foreign: switch,
    /// Leaves `usage` out.
    no_usage: switch,
    /// Leaves the details of `usage` out, as other servers than OpenAI's do.
    no_details: switch,
    /// Writes the body in pieces of this many bytes.
    chunk: number,
    /// Ends lines with CRLF.
    crlf: switch,
    /// Ends a stream with `[DONE]`, as vLLM does.
    done: switch,
    /// Compresses nothing but says so.
    wrong_encoding: switch,
    /// Answers from a template, without reading the request: for benchmarks.
    canned: switch,
    /// Together with `canned`: the deltas say when they were sent.
    stamped: switch,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let mut fault = Fault::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                Some((name, value)) => fault.set(name.trim(), Some(value.trim()))?,
                None => fault.set(part, None)?,
            }
        }
        Ok(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_its_text() {
        for text in [
            "",
            "status=429;retry_after=2",
            "slow=200000us;deltas=72;crlf",
            "fail_in_stream=server_error;chunk=7",
        ] {
            let fault: Fault = text.parse().unwrap();
            assert_eq!(fault.to_string(), text);
        }
        let fault: Fault = " slow = 200ms ; crlf ".parse().unwrap();
        assert_eq!(fault.slow, Some(Duration::from_millis(200)));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["statsu=429", "status", "status=x", "crlf=1", "slow=soon"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
