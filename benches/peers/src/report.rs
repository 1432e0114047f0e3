//! The table, as text, as CSV and as a chart.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// One peer in one workload.
#[derive(Debug, Clone)]
pub struct Line {
    pub workload: String,
    pub peer: &'static str,
    /// Millions of operations a second, run by run.
    pub speeds: Vec<f64>,
    /// Hits in a hundred gets.
    pub hit_ratio: Option<f64>,
    /// Bytes in use for an entry beyond those of its key and value.
    pub overhead: Option<f64>,
}

impl Line {
    fn median(&self) -> Option<f64> {
        self.figures()[0]
    }

    /// Median, least and most; nothing where no speed was measured.
    fn figures(&self) -> [Option<f64>; 3] {
        let mut sorted = self.speeds.clone();
        sorted.sort_by(f64::total_cmp);
        [sorted.get(sorted.len() / 2), sorted.first(), sorted.last()].map(Option::<&f64>::copied)
    }
}

/// A figure, or nothing.
fn cell(number: Option<f64>, digits: usize) -> String {
    number.map_or(String::new(), |number| format!("{number:.digits$}"))
}

/// Every workload, one after the other.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<Line>,
}

impl Report {
    /// Prints a workload, with larder's ratio to each peer, and keeps it.
    pub fn add(&mut self, lines: Vec<Line>) {
        let Some(first) = lines.first() else { return };
        println!("\n{}", first.workload);
        println!(
            "{:<22}{:>10}{:>10}{:>10}{:>9}{:>8}{:>12}",
            "", "M/s", "least", "most", "hits %", "bytes", "larder is"
        );
        let own = lines.iter().find(|line| line.peer == "larder").and_then(Line::median);
        for line in &lines {
            let [median, least, most] = line.figures().map(|figure| cell(figure, 2));
            let ratio = own.zip(line.median()).map(|(own, other)| own / other);
            println!(
                "{:<22}{median:>10}{least:>10}{most:>10}{:>9}{:>8}{:>12}",
                line.peer,
                cell(line.hit_ratio, 2),
                cell(line.overhead, 1),
                cell(ratio, 2),
            );
        }
        self.lines.extend(lines);
    }

    pub fn write_csv(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let mut csv = csv::Writer::from_path(path)?;
        csv.write_record([
            "workload",
            "peer",
            "millions_per_second",
            "least",
            "most",
            "hits_percent",
            "bytes_beyond",
        ])?;
        for line in &self.lines {
            let [median, least, most] = line.figures().map(|figure| cell(figure, 3));
            let (hits, bytes) = (cell(line.hit_ratio, 2), cell(line.overhead, 1));
            csv.write_record([&line.workload, line.peer, &median, &least, &most, &hits, &bytes])?;
        }
        csv.flush()?;
        Ok(())
    }

    /// A bar for each peer in each workload, beside larder's.
    pub fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        const BAR: i32 = 14;
        const LEFT: i32 = 330;
        const WIDTH: i32 = 900;
        let speeds: Vec<_> = self.lines.iter().filter(|line| !line.speeds.is_empty()).collect();
        let workloads = speeds.chunk_by(|a, b| a.workload == b.workload);
        let height = workloads.clone().map(|lines| 30 + BAR * lines.len() as i32).sum::<i32>() + 10;
        let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut y = 8;
        for lines in workloads {
            let most = lines.iter().filter_map(|line| line.median()).fold(0.0, f64::max);
            area.draw(&Text::new(lines[0].workload.clone(), (8, y), ("sans-serif", 13)))?;
            y += 18;
            for line in lines {
                let speed = line.median().unwrap_or_default();
                let length = speed / most * f64::from(WIDTH - LEFT - 80);
                let color = if line.peer == "larder" {
                    RGBColor(200, 80, 40)
                } else {
                    RGBColor(130, 140, 150)
                };
                let end = LEFT + length as i32;
                area.draw(&Rectangle::new([(LEFT, y + 2), (end, y + BAR - 2)], color.filled()))?;
                area.draw(&Text::new(line.peer, (LEFT - 150, y), ("sans-serif", 12)))?;
                let figure = if speed < 1.0 {
                    format!("{:.0} k/s", 1e3 * speed)
                } else {
                    format!("{speed:.1} M/s")
                };
                area.draw(&Text::new(figure, (end + 6, y), ("sans-serif", 11)))?;
                y += BAR;
            }
            y += 12;
        }
        area.present()?;
        Ok(())
    }
}
