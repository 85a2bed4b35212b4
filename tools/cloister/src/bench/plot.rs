//! Bar charts as SVG, of the plainest kind: they are read in Markdown on either a light or a dark page.

use std::fmt::Write;

/// Colours that differ in brightness too, so that they can be told apart without colour; one for each series.
const COLOURS: [&str; 6] = [
    "#bbbbbb", "#4477aa", "#114477", "#ee9944", "#cc6622", "#882222",
];
const BAR: f64 = 14.0;
const GAP: f64 = 18.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 60.0;
const HEIGHT: f64 = 260.0;

/// Groups of bars, one bar of each series in each group.
#[derive(Debug)]
pub(super) struct Bars<'a> {
    pub(super) title: &'a str,
    /// What the axis shows.
    pub(super) axis: &'a str,
    /// Names of the series.
    pub(super) series: Vec<&'a str>,
    /// Names of the groups, with a value for each series; none leaves the bar out.
    pub(super) groups: Vec<(&'a str, Vec<Option<f64>>)>,
}

impl Bars<'_> {
    /// The picture. An axis from 0 to the largest value, with five lines.
    pub(super) fn svg(&self) -> String {
        let group = BAR * self.series.len() as f64 + GAP;
        let width = (LEFT + group * self.groups.len() as f64 + GAP).max(680.0);
        let all = self.groups.iter().flat_map(|(_, values)| values);
        let top = step(all.flatten().copied().fold(0.0, f64::max)) * 5.0;
        let y = |value: f64| TOP + HEIGHT * (1.0 - value / top);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {:.0}\" font-family=\"sans-serif\" \
             font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            TOP + HEIGHT + 40.0
        );
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{}</text>\n<text x=\"8\" y=\"{:.0}\">{}</text>",
            escaped(self.title),
            TOP - 8.0,
            escaped(self.axis)
        );
        for line in 0..=5 {
            let value = top * f64::from(line) / 5.0;
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {:.1}H{width:.0}\" stroke=\"#dddddd\"/><text x=\"{:.0}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                y(value),
                LEFT - 4.0,
                y(value) + 4.0,
                number(value)
            );
        }
        for (index, name) in self.series.iter().enumerate() {
            let x = LEFT + 105.0 * index as f64;
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.0}\" y=\"26\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{:.0}\" y=\"35\">{}</text>",
                COLOURS[index % COLOURS.len()],
                x + 14.0,
                escaped(name)
            );
        }
        for (index, (name, values)) in self.groups.iter().enumerate() {
            let x = LEFT + GAP / 2.0 + group * index as f64;
            for (bar, value) in values.iter().enumerate() {
                let Some(value) = value else { continue };
                let _ = writeln!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                    x + BAR * bar as f64,
                    y(*value),
                    BAR - 1.0,
                    TOP + HEIGHT - y(*value),
                    COLOURS[bar % COLOURS.len()]
                );
            }
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                x + (group - GAP) / 2.0,
                TOP + HEIGHT + 16.0,
                escaped(name)
            );
        }
        svg + "</svg>\n"
    }
}

/// A fifth of the axis: 1, 2, 2.5 or 5 times a power of ten, so that five of them are no less than `most`.
fn step(most: f64) -> f64 {
    let least = (most / 5.0).max(1e-9);
    let power = 10_f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    let fits = factors
        .iter()
        .map(|f| f * power)
        .find(|step| *step >= least * 0.999);
    fits.unwrap_or(power * 10.0)
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tallest_bar_fits_and_missing_values_have_none() {
        let bars = Bars {
            title: "a < b",
            axis: "x",
            series: vec!["one", "two"],
            groups: vec![("g", vec![Some(7.0), None])],
        };
        let svg = bars.svg();
        assert!(svg.contains("a &lt; b"));
        // Background, two legends, one bar: 7 of 10 high.
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains("height=\"182.0\""), "{svg}");
    }

    #[test]
    fn axes_have_round_numbers() {
        let steps = [0.9, 1.0, 1.01, 4800.0, 10_100.0].map(step);
        assert_eq!(steps, [0.2, 0.2, 0.25, 1000.0, 2500.0]);
        assert_eq!(
            [0.0, 0.25, 1.0, 2000.0].map(number),
            ["0", "0.25", "1", "2000"]
        );
    }
}
