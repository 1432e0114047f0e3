//! Where operations report to `tracing`: the only file that names that crate.
//!
//! With no subscriber that wants TRACE an operation pays one relaxed load and one branch.

/// Emits one TRACE event of an operation: its name, its key as text, what came of it and where.
macro_rules! trace_op {
    ($operation:literal, $key:expr, $outcome:expr, $tier:expr) => {
        tracing::event!(
            target: "larder",
            tracing::Level::TRACE,
            operation = $operation,
            key = %String::from_utf8_lossy($key),
            outcome = $outcome,
            tier = $tier,
        )
    };
}

pub(crate) use trace_op;

/// An event of a hit in memory, kept out of the way of hits that nobody traces.
#[inline]
pub(crate) fn memory_hit(key: &[u8]) {
    if tracing::level_enabled!(tracing::Level::TRACE) {
        memory_hit_event(key);
    }
}

#[cold]
fn memory_hit_event(key: &[u8]) {
    trace_op!("get", key, "hit", "memory");
}

/// Logs that something went wrong below us and what was done about it.
pub(crate) fn warn(what: &str, detail: &dyn std::fmt::Display) {
    tracing::event!(target: "larder", tracing::Level::WARN, detail = %detail, "{what}");
}

/// Logs a change of state worth knowing.
pub(crate) fn info(what: &str) {
    tracing::event!(target: "larder", tracing::Level::INFO, "{what}");
}
