"""Views of an experiment that MLflow's UI offers under "Views": which runs it lists, and which charts compare them.

The UI keeps them as tags of the experiment, in the form that it writes itself (MLflow 3.17).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

TAG = "mlflow.sharedViewState."
PIPELINES = "tags.`llama2.kind` = 'pipeline'"
TRAINED = "metrics.gradient_norm > 0"
START, NAME = "attributes.start_time", "tags.`mlflow.runName`"
"""Sorted by start, runs lie folded below their parents."""
MODELS = ("base", "sft", "rejection", "ppo", *(f"V{number}" for number in range(1, 6)), "V5 ppo")
SCORES = {"problems": "Problems solved", "unsafe_answers": "Unsafe answers", "false_refusals": "Refused"}
CURVES = {
    "Loss": ("loss", "validation_loss", "gradient_norm", "learning_rate"),
    "PPO": ("reward", "held_out_reward", "kl", "entropy", "response_tokens", "explained_variance"),
    "Speed": ("tokens_per_second", "memory_bytes", "data_wait_share", "system/cpu_utilization_percentage"),
}
LINE = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}


def views() -> dict[str, str]:
    """Return the tags of our views: models beside models, and the curves of training."""
    scores = {title: tuple(f"{model}/{name}" for model in MODELS) for name, title in SCORES.items()}
    return {
        f"{TAG}llama2-models": _view("models side by side", PIPELINES, START, scores, {"type": "BAR"}),
        f"{TAG}llama2-curves": _view("training curves", TRAINED, NAME, CURVES, {"type": "LINE", **LINE}),
    }


def _view(
    name: str, runs: str, order: str, sections: Mapping[str, Sequence[str]], kind: Mapping[str, Any]
) -> str:
    charts = [
        {
            "uuid": f"{section}-{metric}",
            "runsCountToCompare": 10,
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": False,
            "displayName": metric,
            "metricKey": metric,
            **kind,
        }
        for section, metrics in sections.items()
        for metric in metrics
    ]
    headings = [
        {"uuid": section, "name": section, "display": True, "isReordered": True, "deleted": False,
         "isGenerated": False}
        for section in sections
    ]  # fmt: skip
    state = {
        "searchFilter": runs,
        "orderByKey": order,
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Models`", "attributes.`Dataset`"],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": headings,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    about = {"name": name, "createdAt": 0, "updatedAt": 0}
    return json.dumps({**about, "state": json.dumps(state, separators=(",", ":"))})
