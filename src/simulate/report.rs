//! What a simulation found: a row for each trace, strategy and capacity, and how it is written as CSV.

use std::fmt;
use std::io::{self, Write};

use super::belady::Ceiling;

/// How much a cache may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capacity {
    /// So many entries, whatever their size.
    Entries(u64),
    /// Entries whose sizes add up to so many bytes. Keys and bookkeeping do not count.
    Bytes(u64),
}

impl Capacity {
    /// The number, of [`Self::unit`].
    pub fn amount(self) -> u64 {
        match self {
            Self::Entries(amount) | Self::Bytes(amount) => amount,
        }
    }

    /// `entries` or `bytes`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Entries(_) => "entries",
            Self::Bytes(_) => "bytes",
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount(), self.unit())
    }
}

/// What one replay counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) hits: u64,
    pub(super) requested_bytes: u64,
    pub(super) hit_bytes: u64,
}

impl Tally {
    /// Counts one more request.
    pub(super) fn count(&mut self, size_bytes: u64, hit: bool) {
        self.requests += 1;
        self.requested_bytes = self.requested_bytes.saturating_add(size_bytes);
        if hit {
            self.hits += 1;
            self.hit_bytes = self.hit_bytes.saturating_add(size_bytes);
        }
    }
}

/// One strategy on one trace at one capacity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// The name of the trace.
    pub trace: String,
    /// How many different keys the trace asks for.
    pub keys: u64,
    /// The name of the strategy, or of the ceiling.
    pub strategy: String,
    /// Which ceiling it is, if it is no strategy.
    pub ceiling: Option<Ceiling>,
    /// How much the cache may hold.
    pub capacity: Capacity,
    /// How many requests the trace has.
    pub requests: u64,
    /// How many of them were hits.
    pub hits: u64,
    /// The sizes of all requests together; 0 if they have none.
    pub requested_bytes: u64,
    /// The sizes of those that were hits.
    pub hit_bytes: u64,
}

impl Row {
    /// Hits of all requests, 0 to 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::simulate::{Simulation, Trace};
    ///
    /// let trace = Trace::from_bytes("four", "a\na\na\nb\n");
    /// let report = Simulation::new().entries([1]).run(&trace, |_| {})?;
    /// assert_eq!(report.rows()[0].hit_ratio(), 0.5);
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.hits, self.requests)
    }

    /// Bytes of hits of all bytes asked for, 0 to 1; `None` if the requests have no sizes.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::simulate::{Simulation, Trace};
    ///
    /// let trace = Trace::from_bytes("four", "a 10\na 10\nb 80\nb 100\n");
    /// let report = Simulation::new().bytes([100]).run(&trace, |_| {})?;
    /// assert_eq!(report.rows()[0].byte_hit_ratio(), Some(0.55));
    /// # Ok::<(), larder::Error>(())
    /// ```
    pub fn byte_hit_ratio(&self) -> Option<f64> {
        (self.requested_bytes > 0).then(|| ratio(self.hit_bytes, self.requested_bytes))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio, of which a few digits are looked at")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// The rows of one simulation, or of several: `extend` one with the rows of another.
///
/// They are in the order of traces, then capacities, then strategies as they were named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// All rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Writes a header and all rows as comma-separated values. Percentages have two decimals; that of
    /// bytes is empty if the requests have no sizes.
    ///
    /// # Examples
    ///
    /// ```
    /// use larder::Strategy;
    /// use larder::simulate::{Simulation, Trace};
    ///
    /// let trace = Trace::from_bytes("four", "a\na\nb\na\n");
    /// let report = Simulation::new().strategy(Strategy::Lru).entries([1]).run(&trace, |_| {})?;
    /// let mut csv = Vec::new();
    /// report.to_csv(&mut csv)?;
    /// let csv = String::from_utf8(csv)?;
    /// assert!(csv.contains("four,2,Lru,entries,1,4,1,25.00,0,0,\n"), "{csv}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_csv(&self, mut writer: impl Write) -> io::Result<()> {
        writeln!(
            writer,
            "trace,keys,strategy,unit,capacity,requests,hits,hit_percent,requested_bytes,hit_bytes,\
             byte_hit_percent"
        )?;
        for row in &self.rows {
            writeln!(
                writer,
                "{},{},{},{},{},{},{},{:.2},{},{},{}",
                quoted(&row.trace),
                row.keys,
                quoted(&row.strategy),
                row.capacity.unit(),
                row.capacity.amount(),
                row.requests,
                row.hits,
                100.0 * row.hit_ratio(),
                row.requested_bytes,
                row.hit_bytes,
                row.byte_hit_ratio().map_or(String::new(), |ratio| format!("{:.2}", 100.0 * ratio)),
            )?;
        }
        writer.flush()
    }
}

impl Extend<Row> for Report {
    fn extend<I: IntoIterator<Item = Row>>(&mut self, rows: I) {
        self.rows.extend(rows);
    }
}

impl IntoIterator for Report {
    type Item = Row;
    type IntoIter = std::vec::IntoIter<Row>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

/// A field of CSV, in quotes if it needs them (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
