"""Packaging: `pip install -e .` gives the `hearth` command; `.[test]` adds what scripts/test needs."""

from __future__ import annotations

from setuptools import find_packages, setup

setup(
    name="hearth",
    version="0.1.0",
    description="Runs functions in sandboxes of its own making, with the semantics of SCF, on one Linux machine",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["sandbox", "sandbox.*", "server", "server.*"]), "sandbox.imaging.recipes"],
    package_dir={"sandbox.imaging.recipes": "rootfs"},
    # The guest programs and the migrations are read as files, not imported from where they lie.
    package_data={
        "sandbox": ["guest/*", "guest/rehearsal/*"],
        "sandbox.imaging.recipes": ["*.toml"],
        "server": ["store/migrations/*", "store/migrations/versions/*", "console/*"],
    },
    include_package_data=True,
    zip_safe=False,
    install_requires=[
        "alembic>=1.13",
        # CRC-32C and CRC-64/NVME, which S3's clients send beside bodies; AWS's own, as its command line uses it.
        "awscrt>=0.26",
        "click>=8.1",
        "croniter>=6.0",
        "cryptography>=42",
        "falcon>=4.0",
        # server.api.connection goes on from its ASGI protocol, which has changed much since it came with 24.0.
        "gunicorn>=27.0",
        "httpx>=0.27",
        # Q_OVERFLOW, IN_UNMOUNT and the moves as the kernel tells them; the larger ones hide some of these.
        "inotify_simple>=2.0",
        "orjson>=3.10",
        "prometheus-client>=0.20",
        "psutil>=6",
        "pyroute2>=0.9",
        "pyseccomp>=0.1.2",
        "python-prctl>=1.8",
        "rich>=13.7",
        "SQLAlchemy>=2.0",
        # Debian's minimal images have no zone files of their own.
        "tzdata>=2024.1",
        "uvloop>=0.19",
        "zstandard>=0.22",
    ],
    extras_require={
        "test": [
            "awscli>=1.36",
            "boto3>=1.36",
            "cos-python-sdk-v5>=1.9.30",
            "hypothesis>=6.100",
            "import-linter>=2.1",
            "mypy>=1.11",
            "openapi-spec-validator>=0.7",
            "psycopg[binary]>=3.1",
            "pytest>=8.2",
            "pytest-asyncio>=0.24",
            "pytest-randomly>=3.15",
            "qcloudapi-sdk-python>=2.0.15",
            "ruff>=0.6",
            "schemathesis>=4.10",
            "tccli>=3.1.189",
            "tencentcloud-sdk-python-common>=3.1.100",
            "tencentcloud-sdk-python-scf>=3.1.100",
            "tencentserverless>=0.1.7",
            "vermin>=1.6",
        ],
    },
    entry_points={"console_scripts": ["hearth = server.cli.main:main"]},
)
