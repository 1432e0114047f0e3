//! The chart of a report: hit ratio against capacity, one line for each strategy, as SVG.
//!
//! Each trace has a panel for each unit it was measured in; one in bytes has a second panel for the ratio
//! of bytes. The same report gives the same text. Colours are of medium brightness, and the rest follows
//! the reader's preference, so that it can be read on white and on black.
//!
//! ```text
//!   title: trace, requests, keys
//!   100 % |            ______ Belady     the axis of capacities is logarithmic if they differ
//!         |      _____/   ___ Lru        by more than LINEAR_MAX times
//!     0 % |_____/________/
//!          1,000  2,000  4,000 entries
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::belady::Ceiling;
use super::report::{Capacity, Report, Row};

const WIDTH: f64 = 800.0;
const PANEL_HEIGHT: f64 = 380.0;
/// Of the area that lines are drawn in, from the corner of its panel.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 610.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 326.0;
/// Labels of capacities are at least so far apart.
const LABEL_WIDTH: f64 = 58.0;
const LEGEND_HEIGHT: f64 = 20.0;
/// The largest quotient of capacities on a linear axis.
const LINEAR_MAX: f64 = 12.0;

/// Each is legible on white and on black.
const COLORS: [&str; 9] = [
    "#3b82c4", "#e0812b", "#2fa36b", "#cf4a5b", "#9a6bd0", "#a0764f", "#d868b0", "#1fa7b8",
    "#8a9a3a",
];

const STYLE: &str = "<style>
  .paper { fill: #ffffff } .ink { fill: #24292f } .rule { stroke: #d0d7de } .ceiling { stroke: #24292f }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } .ink { fill: #e6edf3 } .rule { stroke: #30363d } .ceiling { stroke: #e6edf3 }
  }
  text { font: 12px system-ui, sans-serif } .title { font-weight: 600 }
  polyline, circle { fill: none; stroke-width: 2; stroke-linejoin: round } circle { stroke-dasharray: none }
</style>
";

/// Draws hit ratio against capacity, as the text of an SVG file. Ceilings are dashed.
///
/// # Examples
///
/// ```
/// use larder::simulate::{Simulation, Trace, chart};
///
/// let trace = Trace::from_bytes("pages", "/\n/about\n/\n/blog\n/\n/about\n");
/// let report = Simulation::new().entries([1, 2, 3]).run(&trace, |_| {})?;
/// let svg = chart(&report);
/// assert!(svg.starts_with("<svg ") && svg.contains(">Belady<"));
/// # Ok::<(), larder::Error>(())
/// ```
pub fn chart(report: &Report) -> String {
    let panels = panels(report.rows());
    let colors = colors(report.rows());
    let height = PANEL_HEIGHT * f64::from(u32::try_from(panels.len()).unwrap_or(u32::MAX));
    let mut svg = Svg(String::new());
    svg.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n{STYLE}<rect class=\"paper\" width=\"100%\" \
         height=\"100%\"/>\n"
    ));
    let mut top = 0.0;
    for panel in &panels {
        svg.add(format_args!("<g transform=\"translate(0 {top})\">\n"));
        panel.draw(&mut svg, &colors);
        svg.add(format_args!("</g>\n"));
        top += PANEL_HEIGHT;
    }
    svg.add(format_args!("</svg>\n"));
    svg.0
}

/// What is measured on the vertical axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Measure {
    Requests,
    Bytes,
}

impl Measure {
    fn of(self, row: &Row) -> f64 {
        match self {
            Self::Requests => row.hit_ratio(),
            Self::Bytes => row.byte_hit_ratio().unwrap_or(0.0),
        }
    }
}

/// Rows of one trace in one unit.
struct Panel<'a> {
    rows: Vec<&'a Row>,
    measure: Measure,
}

fn panels(rows: &[Row]) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel<'_>> = Vec::new();
    let group = |row: &Row| (row.trace.clone(), row.capacity.unit());
    for rows in rows.chunk_by(|a, b| group(a) == group(b)) {
        let rows: Vec<&Row> = rows.iter().collect();
        let in_bytes = rows.iter().any(|row| matches!(row.capacity, Capacity::Bytes(_)));
        panels.push(Panel { rows: rows.clone(), measure: Measure::Requests });
        if in_bytes {
            panels.push(Panel { rows, measure: Measure::Bytes });
        }
    }
    panels
}

/// A color for each strategy, the same one in all panels. Ceilings have none.
fn colors(rows: &[Row]) -> BTreeMap<&str, &'static str> {
    let mut free = COLORS.iter().cycle();
    let mut colors = BTreeMap::new();
    for row in rows.iter().filter(|row| row.ceiling.is_none()) {
        if !colors.contains_key(row.strategy.as_str()) {
            colors.extend(free.next().map(|color| (row.strategy.as_str(), *color)));
        }
    }
    colors
}

impl Panel<'_> {
    fn draw(&self, svg: &mut Svg, colors: &BTreeMap<&str, &'static str>) {
        let Some(first) = self.rows.first() else { return };
        let ratio = match self.measure {
            Measure::Requests => "hit ratio",
            Measure::Bytes => "byte hit ratio",
        };
        svg.add(format_args!(
            "<text class=\"ink title\" x=\"{LEFT}\" y=\"20\">{}: {ratio}, {} requests of {} keys</text>\n",
            Escaped(&first.trace),
            Grouped(first.requests),
            Grouped(first.keys),
        ));
        let across = Across::of(self.rows.iter().map(|row| row.capacity.amount()));
        let up = Up::of(self.rows.iter().map(|row| self.measure.of(row)));
        up.draw(svg);
        across.draw(svg, &self.rows);

        let mut lines = self.lines();
        for line in &lines {
            line.draw(svg, line_style(line, colors), |row| {
                (across.x(row.capacity.amount()), up.y(self.measure.of(row)))
            });
        }
        // The legend is in the order of the lines' right ends.
        let end = |line: &Line<'_>| line.rows.last().map_or(0.0, |row| self.measure.of(row));
        lines.sort_by(|a, b| end(b).total_cmp(&end(a)));
        let mut y = TOP + 6.0;
        for line in &lines {
            let (x, style) = (RIGHT + 18.0, line_style(line, colors));
            svg.add(format_args!(
                "<polyline {style} points=\"{x},{y} {},{y}\"/><text class=\"ink\" x=\"{}\" y=\"{}\">{}\
                 </text>\n",
                x + 20.0,
                x + 26.0,
                y + 4.0,
                Escaped(line.strategy),
            ));
            y += LEGEND_HEIGHT;
        }
    }

    /// The rows of each strategy, in the order of capacities, ceilings first so that they are below.
    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines: Vec<Line<'_>> = Vec::new();
        for row in &self.rows {
            match lines.iter_mut().find(|line| line.strategy == row.strategy) {
                Some(line) => line.rows.push(row),
                None => lines.push(Line { strategy: &row.strategy, rows: vec![row] }),
            }
        }
        for line in &mut lines {
            line.rows.sort_by_key(|row| row.capacity);
        }
        lines.sort_by_key(|line| line.rows.iter().all(|row| row.ceiling.is_none()));
        lines
    }
}

struct Line<'a> {
    strategy: &'a str,
    rows: Vec<&'a Row>,
}

impl Line<'_> {
    fn draw(&self, svg: &mut Svg, style: Style, place: impl Fn(&Row) -> (f64, f64)) {
        svg.add(format_args!("<polyline {style} points=\""));
        for row in &self.rows {
            let (x, y) = place(row);
            svg.add(format_args!("{x:.1},{y:.1} "));
        }
        svg.add(format_args!("\"/>\n"));
        for row in &self.rows {
            let (x, y) = place(row);
            svg.add(format_args!("<circle {style} cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>"));
        }
        svg.add(format_args!("\n"));
    }
}

#[derive(Clone, Copy)]
enum Style {
    Ceiling(Ceiling),
    Color(&'static str),
}

fn line_style(line: &Line<'_>, colors: &BTreeMap<&str, &'static str>) -> Style {
    let ceiling = line.rows.iter().find_map(|row| row.ceiling);
    let color = colors.get(line.strategy).copied().unwrap_or_default();
    ceiling.map_or(Style::Color(color), Style::Ceiling)
}

impl fmt::Display for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ceiling(Ceiling::Belady) => {
                f.write_str("class=\"ceiling\" stroke-dasharray=\"6 4\"")
            }
            Self::Ceiling(Ceiling::Bypass) => {
                f.write_str("class=\"ceiling\" stroke-dasharray=\"2 3\"")
            }
            Self::Color(color) => write!(f, "stroke=\"{color}\""),
        }
    }
}

/// The axis of capacities.
struct Across {
    least: f64,
    most: f64,
    scale: Scale,
}

#[derive(Clone, Copy)]
enum Scale {
    Linear,
    Logarithmic,
}

impl Scale {
    fn of(self, amount: f64) -> f64 {
        match self {
            Self::Linear => amount,
            Self::Logarithmic => amount.ln(),
        }
    }
}

impl Across {
    fn of(amounts: impl Iterator<Item = u64> + Clone) -> Self {
        let least = float(amounts.clone().min().unwrap_or(1));
        let most = float(amounts.max().unwrap_or(1));
        let scale = if most > LINEAR_MAX * least { Scale::Logarithmic } else { Scale::Linear };
        Self { least: scale.of(least), most: scale.of(most), scale }
    }

    fn x(&self, amount: u64) -> f64 {
        let width = self.most - self.least;
        // A single capacity is in the middle.
        let part =
            if width > 0.0 { (self.scale.of(float(amount)) - self.least) / width } else { 0.5 };
        LEFT + 14.0 + part * (RIGHT - LEFT - 28.0)
    }

    /// A label at every capacity that has the room.
    fn draw(&self, svg: &mut Svg, rows: &[&Row]) {
        let mut capacities: Vec<Capacity> = rows.iter().map(|row| row.capacity).collect();
        capacities.sort_unstable();
        capacities.dedup();
        let mut free_from = LEFT;
        for capacity in &capacities {
            let x = self.x(capacity.amount());
            svg.add(format_args!(
                "<line class=\"rule\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{BOTTOM}\" y2=\"{}\"/>",
                BOTTOM + 5.0
            ));
            if x < free_from {
                continue;
            }
            free_from = x + LABEL_WIDTH;
            svg.add(format_args!(
                "<text class=\"ink\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                BOTTOM + 20.0,
                Amount(*capacity)
            ));
        }
        let unit = capacities.first().map_or("", |capacity| capacity.unit());
        let scale = match self.scale {
            Scale::Linear => "",
            Scale::Logarithmic => ", logarithmic",
        };
        svg.add(format_args!(
            "<text class=\"ink\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">capacity in {unit}{scale}</text>\n",
            LEFT.midpoint(RIGHT),
            BOTTOM + 40.0,
        ));
    }
}

/// The axis of ratios: from 0 to the next step above all.
struct Up {
    percent_max: u32,
    step: u32,
}

impl Up {
    fn of(ratios: impl Iterator<Item = f64>) -> Self {
        let most = 100.0 * ratios.fold(0.0, f64::max);
        // Five steps at most.
        let step =
            [1, 2, 5, 10].into_iter().find(|step| 5.0 * f64::from(*step) >= most).unwrap_or(20);
        let percent_max = (1..=5).map(|steps| steps * step).find(|max| f64::from(*max) >= most);
        Self { percent_max: percent_max.unwrap_or(100), step }
    }

    fn y(&self, ratio: f64) -> f64 {
        BOTTOM - 100.0 * ratio / f64::from(self.percent_max) * (BOTTOM - TOP)
    }

    fn draw(&self, svg: &mut Svg) {
        for steps in 0..=self.percent_max / self.step {
            let percent = steps * self.step;
            let y = self.y(f64::from(percent) / 100.0);
            svg.add(format_args!(
                "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"ink\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{percent} %</text>\n",
                LEFT - 8.0,
                y + 4.0,
            ));
        }
    }
}

struct Svg(String);

impl Svg {
    fn add(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
fn float(amount: u64) -> f64 {
    amount as f64
}

/// A name as text of XML, which has no control characters.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '\u{fffe}' | '\u{ffff}' => f.write_char('\u{fffd}')?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A number with a comma between groups of three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

/// A capacity in few characters.
struct Amount(Capacity);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let bytes = match self.0 {
            Capacity::Entries(entries) => return Grouped(entries).fmt(f),
            Capacity::Bytes(bytes) if bytes < 1 << 10 => return write!(f, "{bytes} B"),
            Capacity::Bytes(bytes) => bytes,
        };
        let (mut scaled, mut unit) = (float(bytes), "B");
        for larger in UNITS {
            if scaled >= 1024.0 {
                (scaled, unit) = (scaled / 1024.0, larger);
            }
        }
        let digits = usize::from(scaled.fract() >= 0.05 && scaled < 100.0);
        write!(f, "{scaled:.digits$} {unit}")
    }
}
