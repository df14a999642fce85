//! Exact concurrency of one revision at one gateway (04-autoscaler §3.1).

/// Requests in flight, integrated over time. Times in microseconds, never going back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Integrator {
    in_flight: u64,
    n_started: u64,
    area_us: u64,
    used_us: u64,
    last_us: Option<u64>,
}

/// One report: the integral and its span since the last report, and what is in flight now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Request-microseconds.
    pub area_us: u64,
    pub used_us: u64,
    pub n_started: u64,
    pub in_flight: u64,
}

impl Integrator {
    /// One that has nothing in flight since `now_us`; the default one begins with its first event.
    pub fn new(now_us: u64) -> Self {
        Self {
            last_us: Some(now_us),
            ..Self::default()
        }
    }

    pub fn started(&mut self, now_us: u64) {
        self.advance(now_us);
        self.in_flight += 1;
        self.n_started += 1;
    }

    pub fn ended(&mut self, now_us: u64) {
        self.advance(now_us);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Closes the span since the last report. What is in flight stays in flight.
    pub fn report(&mut self, now_us: u64) -> Report {
        self.advance(now_us);
        let report = Report {
            area_us: self.area_us,
            used_us: self.used_us,
            n_started: self.n_started,
            in_flight: self.in_flight,
        };
        (self.area_us, self.used_us, self.n_started) = (0, 0, 0);
        report
    }

    fn advance(&mut self, now_us: u64) {
        let last = self.last_us.unwrap_or(now_us);
        if now_us > last {
            self.area_us += self.in_flight * (now_us - last);
            self.used_us += now_us - last;
        }
        self.last_us = Some(now_us.max(last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_across_reports_is_in_both_and_counted_once() {
        let mut integrator = Integrator::default();
        integrator.report(0);
        integrator.started(500_000);
        let first = integrator.report(1_000_000);
        assert_eq!(
            (first.area_us, first.used_us, first.n_started),
            (500_000, 1_000_000, 1)
        );
        integrator.ended(1_250_000);
        let second = integrator.report(2_000_000);
        assert_eq!(
            (second.area_us, second.n_started, second.in_flight),
            (250_000, 0, 0)
        );
    }

    #[test]
    fn time_never_runs_backwards() {
        let mut integrator = Integrator::default();
        integrator.started(1_000);
        integrator.ended(500);
        let report = integrator.report(800);
        assert_eq!((report.area_us, report.used_us), (0, 0));
    }
}
