//! Results per second over concurrency, as a picture.

use std::{io, path::Path};

use indicatif::ProgressBar;
use plotters::prelude::*;

use crate::{
    arguments::LoadArguments,
    compare::{Comparison, Figure, cell},
    peers::Peer,
    say,
    table::Table,
};

const CONCURRENCIES: [usize; 6] = [1, 4, 16, 64, 256, 1024];

/// The rounds without `--compare`.
const ROUNDS: usize = 3;

/// The results per second of each peer, by concurrency.
type Curves = Vec<(usize, Vec<(Peer, f64)>)>;

pub(crate) fn command(arguments: &LoadArguments, path: &Path) -> io::Result<()> {
    let rounds = arguments.compare.unwrap_or(ROUNDS);
    say(run(arguments, rounds, path)?.text());
    Ok(())
}

/// The number of runs.
pub(crate) fn runs(rounds: usize) -> usize {
    CONCURRENCIES.len() * Peer::ALL.len() * rounds
}

/// Measures, draws the picture, and returns its numbers.
pub(crate) fn run(arguments: &LoadArguments, rounds: usize, path: &Path) -> io::Result<Table> {
    let progress = ProgressBar::new(runs(rounds) as u64);
    let mut curves = Curves::new();
    let [a, b, c, d] = Peer::ALL.map(Peer::title);
    let mut table = Table::new(["callers", a, b, c, d]);
    for concurrency in CONCURRENCIES {
        let load = LoadArguments {
            results: if concurrency < 16 { 4_000 } else { 12_000 },
            concurrency,
            ..arguments.clone()
        };
        let comparison = Comparison::run(&load, rounds, &progress)?;
        let median = |peer| comparison.median(peer, Figure::ResultsPerSecond);
        let mut row = vec![concurrency.to_string()];
        row.extend(Peer::ALL.map(|peer| cell(median(peer))));
        table.push(row);
        let points = Peer::ALL.into_iter().filter_map(|peer| Some((peer, median(peer)?)));
        curves.push((concurrency, points.collect()));
    }
    progress.finish_and_clear();
    draw(&curves, path).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(table)
}

fn draw(curves: &Curves, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let rates = curves
        .iter()
        .flat_map(|(_, points)| points.iter().map(|(_, rate)| *rate));
    let top = rates.fold(0.0, f64::max) * 1.1;
    let root = SVGBackend::new(path, (760, 420)).into_drawing_area();
    // A background of its own, since the page may be dark.
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Results per second by number of callers", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.8_f64..1300.0).log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("callers (both requests of a result, platform on loopback)")
        .y_desc("results per second")
        .x_label_formatter(&|callers| format!("{callers:.0}"))
        .y_label_formatter(&|rate| format!("{:.0}k", rate / 1000.0))
        .axis_style(RGBColor(150, 150, 150))
        .draw()?;
    for peer in Peer::ALL {
        let (color, width) = match peer {
            Peer::Poster => (RGBColor(200, 60, 20), 3),
            Peer::Awc => (RGBColor(70, 110, 180), 2),
            Peer::ReqwestRetry => (RGBColor(60, 140, 70), 2),
            Peer::Hyper => (RGBColor(140, 140, 140), 2),
        };
        let points: Vec<(f64, f64)> = curves
            .iter()
            .filter_map(|(concurrency, points)| {
                let (_, rate) = points.iter().find(|(of, _)| *of == peer)?;
                Some((*concurrency as f64, *rate))
            })
            .collect();
        let style = color.stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.clone(), style))?
            .label(peer.title())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(150, 150, 150))
        .draw()?;
    root.present()?;
    Ok(())
}
