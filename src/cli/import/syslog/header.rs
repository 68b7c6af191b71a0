//! The headers of RFC 3164 ("Dec 10 06:55:46 host sshd[24200]: ..."), of RFC 5424 ("<38>1
//! 2003-10-11T22:14:15.003Z host sshd 24200 - - ..."), and the form between the two that rsyslog
//! writes by default (RFC 3164 with an RFC 3339 time).

use crate::cli::import::unix_ns;

/// Longest host or program name, in bytes: RFC 5424 allows 255 and 48.
const NAME_BYTES_MAX: usize = 255;
/// The largest priority: facility 23, severity 7.
const PRIORITY_MAX: u8 = 191;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What a line says before its message. Texts are empty where the line does not say.
#[derive(Debug, PartialEq)]
pub(super) struct Header<'a> {
    /// Facility · 8 + severity.
    pub(super) priority: Option<u8>,
    pub(super) time: Time<'a>,
    /// Not empty.
    pub(super) host: &'a str,
    pub(super) program: &'a str,
    pub(super) pid: &'a str,
    pub(super) message_id: &'a str,
    /// RFC 5424 only, with its brackets.
    pub(super) structured_data: &'a str,
    pub(super) message: &'a str,
}

/// When, as far as the line says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Time<'a> {
    /// Unix time in nanoseconds.
    Known(i64),
    /// As written: without a year, or no time of which an event can know.
    Text(&'a str),
}

/// The header of a line, if it has one.
pub(super) fn parse(line: &str, year: Option<i16>) -> Option<Header<'_>> {
    let (priority, rest) = priority(line)?;
    match rest.strip_prefix("1 ").filter(|_| priority.is_some()) {
        Some(rest) => parse_5424(priority, rest),
        None => parse_3164(priority, rest, year),
    }
}

/// "<38>", which files usually leave out.
fn priority(line: &str) -> Option<(Option<u8>, &str)> {
    let Some(rest) = line.strip_prefix('<') else { return Some((None, line)) };
    let (number, rest) = rest.split_once('>')?;
    let is_number = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let value = number.parse().ok().filter(|value| is_number && *value <= PRIORITY_MAX)?;
    Some((Some(value), rest))
}

/// After "<38>1 ": TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA [MSG].
fn parse_5424(priority: Option<u8>, rest: &str) -> Option<Header<'_>> {
    let (timestamp, rest) = rest.split_once(' ')?;
    let time = match timestamp {
        "-" => Time::Known(0),
        _ => unix_ns(timestamp).map_or(Time::Text(timestamp), Time::Known),
    };
    let (host, rest) = rest.split_once(' ')?;
    let (program, rest) = rest.split_once(' ')?;
    let (pid, rest) = rest.split_once(' ')?;
    let (message_id, rest) = rest.split_once(' ')?;
    let (structured_data, message) = structured_data(rest)?;
    // A missing value is "-". A host that is not named stays that: a target needs an id.
    let value = |text| if text == "-" { "" } else { text };
    Some(Header {
        priority,
        time,
        host: name(host)?,
        program: value(program),
        pid: value(pid),
        message_id: value(message_id),
        structured_data: value(structured_data),
        // Texts in UTF-8 may begin with a byte order mark.
        message: message.strip_prefix('\u{feff}').unwrap_or(message),
    })
}

/// "-" or "[id name="value" ...][...]", and the message after it. In values, '"', '\' and ']' are
/// escaped by '\'.
fn structured_data(rest: &str) -> Option<(&str, &str)> {
    let end = if rest.starts_with('-') { 1 } else { elements_end(rest)? };
    let (data, rest) = rest.split_at(end);
    match rest.strip_prefix(' ') {
        Some(message) => Some((data, message)),
        None => rest.is_empty().then_some((data, "")),
    }
}

/// Where the bracketed elements end that `rest` begins with.
fn elements_end(rest: &str) -> Option<usize> {
    let (mut in_element, mut in_value, mut escaped) = (false, false, false);
    for (position, byte) in rest.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_value => escaped = true,
            b'"' if in_element => in_value = !in_value,
            b']' if !in_value => in_element = false,
            b'[' if !in_element => in_element = true,
            _ if !in_element => return (position > 0).then_some(position),
            _ => {}
        }
    }
    (!in_element && !rest.is_empty()).then_some(rest.len())
}

/// TIMESTAMP HOSTNAME TAG[PID]: MSG.
fn parse_3164(priority: Option<u8>, rest: &str, year: Option<i16>) -> Option<Header<'_>> {
    let (time, rest) = time_3164(rest, year).or_else(|| {
        let (timestamp, rest) = token(rest)?;
        Some((Time::Known(unix_ns(timestamp)?), rest))
    })?;
    let (host, rest) = token(rest)?;
    let (program, pid, message) = tag(rest.trim_start_matches(' '));
    Some(Header {
        priority,
        time,
        host: name(host)?,
        program,
        pid,
        message_id: "",
        structured_data: "",
        message,
    })
}

/// "Dec 10 06:55:46", as UTC: the line does not say which zone.
fn time_3164(line: &str, year: Option<i16>) -> Option<(Time<'_>, &str)> {
    let (month_text, rest) = token(line)?;
    let (day_text, rest) = token(rest)?;
    let (clock, rest) = token(rest)?;
    let month = 1 + MONTHS.iter().position(|name| *name == month_text)?;
    let day: i8 = two_digits(day_text)?;
    let [hour, minute, second] = {
        let mut parts = clock.split(':').map(two_digits);
        let parts = [parts.next()??, parts.next()??, parts.next()??];
        if clock.len() != 8 {
            return None;
        }
        parts
    };
    let written = line[..line.len() - rest.len()].trim();
    let ns = year.and_then(|year| {
        let civil =
            jiff::civil::DateTime::new(year, month as i8, day, hour, minute, second, 0).ok()?;
        let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        i64::try_from(zoned.timestamp().as_nanosecond()).ok().filter(|ns| *ns >= 0)
    });
    Some((ns.map_or(Time::Text(written), Time::Known), rest))
}

/// A number of one or two digits.
fn two_digits(text: &str) -> Option<i8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// The text up to the next space, and what follows that.
fn token(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(' ');
    let end = text.find(' ').unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A name that is not empty and not too long.
fn name(text: &str) -> Option<&str> {
    (1..=NAME_BYTES_MAX).contains(&text.len()).then_some(text)
}

/// Program, process id and message of "sshd[24200]: text" or "kernel: text". Without a tag the
/// whole is the message.
fn tag(text: &str) -> (&str, &str, &str) {
    let no_tag = ("", "", text);
    let Some((tag, message)) = text.split_once(':') else { return no_tag };
    let (program, pid) = match tag.strip_suffix(']').and_then(|tag| tag.split_once('[')) {
        Some((program, pid)) => (program, pid),
        None => (tag, ""),
    };
    if name(program).is_none() || tag.contains(' ') {
        return no_tag;
    }
    (program, pid, message.strip_prefix(' ').unwrap_or(message))
}
