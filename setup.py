"""What pyproject.toml cannot say: the folder `assets` is installed inside the package, as `lora_playground/_assets`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lora_playground", "lora_playground.*"]), "lora_playground._assets"],
    package_dir={"lora_playground._assets": "assets"},
    package_data={
        "lora_playground": ["**/*.toml"],
        "lora_playground._assets": [
            "*.json",
            "claims/*",
            "datasets/**/*",
            "lessons/*",
            "models/**/*",
            "recordings/*",
            "theme/**/*",
        ],
    },
)
