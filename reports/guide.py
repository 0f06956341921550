"""What the words of the leaderboard mean, as (term, meaning) pairs."""

GUIDE: tuple[tuple[str, str], ...] = (
    (
        "n*",
        "number of events at which the bias of a fit reaches 0.2 of its own statistical sigma; with fewer events the estimator is safe to "
        "fit with, with more the bias matters. Higher is better; '> 1e6' means that it was not reached up to there.",
    ),
    (
        "bias/\N{GREEK SMALL LETTER SIGMA} (bias_vs_oracle)",
        "mean difference between the estimator's fit and the exact fit of the same pseudo-experiments, divided by the exact fit's sigma; "
        "nuisance parameters profiled, at the nominal point, for the parameter of interest. 0 is right. "
        "Where the signs of several seeds cancel in the mean, the size expected of one training (mean of |bias|) stands below it.",
    ),
    ("pull width", "standard deviation of (fit - truth) / (its stated sigma). 1 is right; above 1 the intervals are too narrow."),
    ("width / oracle", "interval width divided by that of the exact fit. 1 is right; below 1 is overconfident, above 1 loses information."),
    ("cover 68 %, cover 95 %", "share of the stated intervals that hold the true value. The aim is 68.3 % and 95.4 %."),
    (
        "KL / nats",
        "Kullback-Leibler divergence from the exact density to the learned one, in nats (natural logarithm) per event. 0 is right.",
    ),
    ("log r RMSE, log r median", "error of the per-event log-ratio log p(x|theta) - log p(x|theta_0): root mean square, and median size."),
    ("mean ratio", "mean of the learned ratio over events for which it must be 1."),
    (
        "value \N{PLUS-MINUS SIGN} error",
        "mean over k training seeds with one standard error: within one run that of the test events or pseudo-experiments, s_i; "
        "for k = 1 it is s_1, for k of 2 or more the larger of sqrt(sum s_i^2)/k and sd/sqrt(k). The spread sd between seeds already "
        "contains the noise within a run, so they are not added. n* is averaged as log n*.",
    ),
    (
        "rank and letter",
        "rank by the primary number of the table (n* of the parameter of interest; where it is missing or withheld, KL, then log r RMSE). "
        "Entries that share a letter lie within two combined standard errors of the best entry with that letter: "
        "not distinguishable from it. "
        "An entry of a single run is not ranked beside entries of several: its error knows nothing of other trainings. "
        "There is no weighted grand total.",
    ),
    (
        "control, baseline",
        "not ranked. Controls: oracle (the exact answer), oracle_narrow (too confident), oracle_shifted (biased), best_gaussian. "
        "Baselines: template_histogram, counting.",
    ),
    (
        "withheld",
        "the metric put the exact answer behind a control that is known to be worse, by more than two combined standard errors, "
        "so it is not shown there.",
    ),
    (
        "gates",
        "what the rows of one evaluation amount to. A gate passes (\N{CHECK MARK}) or fails (\N{BALLOT X}) only where "
        "its threshold is cleared by two standard errors, corrected for the number of rows; else it is undecided (?), and more events "
        "or experiments would tell. Over several seeds it fails if it fails in one, and passes if it passes in all. The "
        "details name the row that decided. The audit of the scores, where there is one, shows which known faults each of them sees.",
    ),
    (
        "calibration",
        "sbc, tarp: largest deviation of the ranks of the truth among posterior draws from uniform; pit: the same for the probability "
        "integral of a likelihood; expected coverage: share of truths inside credible regions. A posterior that ignores the data passes "
        "most of them, so information gain (nats that the posterior gains over the prior) stands beside. ECE: mean miscalibration of a "
        "log-ratio, its expected value under perfect calibration subtracted. n_set: events per set.",
    ),
    (
        "closure",
        "normalisation: integral of the learned density or ratio at nominal, anchor and joint points, and its slope in theta as a pull on "
        "the fit; reweighting: simulated events carried from one point to another by the learned ratio, against those simulated there, "
        "feature by feature; nuisance response: slope of learned against exact log-ratio along a nuisance; interaction: what two "
        "parameters do together beyond what they do alone. None but the last two needs an exact density.",
    ),
    (
        "null",
        "what a distance between two samples amounts to when both come from the simulator, at the same number of events. Distances mean "
        "something where they are beyond it.",
    ),
    ("n/a", "the estimator or toy cannot give this number, or the run has none; the details say why."),
    ("budget", "simulated training events, validation included. Ranks compare at equal budget only."),
    ("\N{GREATER-THAN OR EQUAL TO}", "a lower limit, because at least one seed gave only a lower limit."),
)
