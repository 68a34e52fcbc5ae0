"""Deaths of workers that open a run: what is held against the run, and who opens a suspect one."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduling.opening_trials import ALONE, OpeningTrials, Standing

MOST = 5


def never(_worker):
    return False


def always(_worker):
    return True


def anybody(*workers):
    return lambda _run: workers


def test_a_death_beside_other_tiles_makes_a_run_suspect_and_is_not_counted():
    trials = OpeningTrials()
    assert trials.standing("run") is Standing.TRUSTED
    assert not trials.died("run", "a", MOST, beside=True)
    assert trials.standing("run") is Standing.SUSPECT
    assert trials.deaths("run") == 0


def test_deaths_that_nothing_else_explains_condemn_a_run_after_the_last_that_it_may_cause():
    trials = OpeningTrials()
    condemned = [trials.died("run", worker, MOST, beside=False) for worker in range(MOST + 1)]
    assert condemned == [False] * MOST + [True]
    assert trials.standing("run") is Standing.TRUSTED, "nothing was beside it: no trial is needed"


def test_a_suspect_that_kills_whoever_opens_it_alone_is_condemned_sooner():
    trials = OpeningTrials()
    trials.died("run", "a", MOST, beside=True)
    condemned = []
    for worker in "bcd":
        trial = trials.choose(anybody(worker), never)
        assert trial == ("run", worker)
        assert trials.standing("run") is Standing.ON_TRIAL
        condemned.append(trials.died("run", worker, MOST, beside=False))
        assert trials.trial is None
    assert condemned == [False] * ALONE + [True]


def test_in_a_trial_a_death_counts_although_the_worker_had_other_tiles_when_it_was_chosen():
    trials = OpeningTrials()
    trials.died("run", "a", MOST, beside=True)
    trials.choose(anybody("b"), always)
    assert not trials.died("run", "b", MOST, beside=True)
    assert trials.deaths("run") == 1


def test_whoever_gets_ready_for_a_suspect_clears_it():
    trials = OpeningTrials()
    trials.died("run", "a", MOST, beside=True)
    trials.choose(anybody("b"), never)
    assert trials.ready("run")
    assert trials.standing("run") is Standing.TRUSTED
    assert trials.trial is None
    assert not trials.ready("run"), "it was trusted already"


def test_a_trial_waits_for_the_worker_that_was_chosen_and_ends_when_that_one_leaves():
    trials = OpeningTrials()
    trials.died("run", "a", MOST, beside=True)
    busy = {"b", "c"}
    assert trials.choose(anybody("b", "c"), busy.__contains__) == ("run", "b")
    busy.remove("c")
    assert trials.choose(anybody("b", "c"), busy.__contains__) == ("run", "b"), "it is kept"
    trials.released("c")
    assert trials.trial == ("run", "b")
    trials.released("b")
    assert trials.standing("run") is Standing.SUSPECT
    assert trials.choose(anybody("b", "c"), busy.__contains__) == ("run", "c"), "who is idle"


def test_one_suspect_is_tried_at_a_time_and_the_next_when_the_first_has_ended():
    trials = OpeningTrials()
    for run in ("one", "two"):
        trials.died(run, "a", MOST, beside=True)
    assert trials.choose(anybody("b"), never) == ("one", "b")
    assert trials.standing("two") is Standing.SUSPECT
    trials.ended("one")
    assert trials.standing("one") is Standing.TRUSTED, "forgotten"
    assert trials.choose(anybody("b"), never) == ("two", "b")


def test_without_a_suspect_or_a_taker_nobody_is_tried():
    trials = OpeningTrials()
    assert trials.choose(anybody("a"), never) is None
    trials.died("run", "a", MOST, beside=True)
    assert trials.choose(anybody(), never) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["died", "died beside", "choose", "ready", "released", "ended"]),
            st.sampled_from(["one", "two"]),
            st.sampled_from("abc"),
        )
    )
)
def test_whatever_happens_a_trial_is_of_a_suspect_and_deaths_are_never_forgiven(doings):
    trials = OpeningTrials()
    deaths = {"one": 0, "two": 0}
    for what, run, worker in doings:
        if what.startswith("died"):
            trials.died(run, worker, MOST, beside=what == "died beside")
        elif what == "choose":
            trials.choose(anybody(worker), never)
        elif what == "ready":
            trials.ready(run)
        elif what == "released":
            trials.released(worker)
        else:
            trials.ended(run)
            deaths[run] = 0
        assert trials.deaths(run) >= deaths[run]
        deaths[run] = trials.deaths(run)
        standings = [trials.standing(name) for name in ("one", "two")]
        assert standings.count(Standing.ON_TRIAL) == (trials.trial is not None)
        assert trials.any_suspects == (set(standings) != {Standing.TRUSTED})
