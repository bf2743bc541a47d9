#!/usr/bin/env python3
"""Turns Parquet files of a Hub dataset into the JSON lines that kto trains on.

    tools/parquet_to_jsonl.py data/train-*.parquet --out data/train.jsonl

Columns: prompt and completion (text, or lists of messages with role and content) with label (true or false, 1 or 0), or
chosen and rejected beside prompt; weight is optional. --prompt, --completion, --label, --chosen and --rejected name columns
that are called otherwise. Needs pyarrow, or pandas with an engine for Parquet.
"""

import argparse
import json
import math
import os
import sys

BATCH = 1024  # rows read at a time


def stop(text):
    sys.exit(f"parquet_to_jsonl: {text}")


def open_parquet(path):
    """(column names, iterator over dicts) of a file."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        return open_with_pandas(path)
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises its own kinds, OSError among them
        stop(f"{path}: not a Parquet file that can be read: {error}")
    rows = (row for batch in file.iter_batches(batch_size=BATCH) for row in batch.to_pylist())
    return file.schema_arrow.names, rows


def open_with_pandas(path):
    try:
        import pandas
    except ImportError:
        stop("neither pyarrow nor pandas is installed; pip install pyarrow")
    try:
        frame = pandas.read_parquet(path)
    except ImportError:
        stop("this pandas cannot read Parquet; pip install pyarrow")
    except Exception as error:
        stop(f"{path}: not a Parquet file that can be read: {error}")
    return list(frame.columns), (row for row in frame.to_dict("records"))


def text_or_messages(value, where):
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, float) and math.isnan(value):
        stop(f"{where} is empty")
    if hasattr(value, "tolist"):  # pandas gives lists as arrays
        value = value.tolist()
    if not isinstance(value, list) or not value:
        stop(f"{where} must be text or a list of messages, not {type(value).__name__}")
    messages = []
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            stop(f"{where}: a message needs role and content, both text; got {message!r:.80}")
        messages.append({"role": message["role"], "content": message["content"]})
    return messages


def label_of(value, where):
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    stop(f"{where} must be true or false, 1 or 0; got {value!r:.80}")


def weight_of(value, where):
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not (weight > 0 and math.isfinite(weight)):
        stop(f"{where} must be a number above 0; got {value!r:.80}")
    return weight


def find_columns(names, a, path):
    """{key of a JSON line: column}."""
    wanted = {"prompt": a.prompt}
    if a.completion in names or a.chosen not in names:
        wanted.update(completion=a.completion, label=a.label)
    else:
        wanted.update(chosen=a.chosen, rejected=a.rejected)
    missing = [column for column in wanted.values() if column not in names]
    if missing:
        stop(f"{path}: no column called {' or '.join(missing)}; there are {', '.join(names)}. "
             "Name them with --prompt, --completion, --label, --chosen, --rejected")
    if "weight" in names and "completion" in wanted:
        wanted["weight"] = "weight"
    return wanted


def convert(path, a, out):
    names, rows = open_parquet(path)
    columns = find_columns(names, a, path)
    count = {True: 0, False: 0}
    for number, row in enumerate(rows, 1):
        line = {}
        for key, column in columns.items():
            where = f"{path}: row {number}: {column}"
            read = {"label": label_of, "weight": weight_of}.get(key, text_or_messages)
            line[key] = read(row[column], where)
        if "label" in line:
            count[line["label"]] += 1
        else:
            count[True] += 1
            count[False] += 1
        out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return count


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="+", help="Parquet files, in the order of their rows")
    p.add_argument("--out", required=True, help="JSONL file to write")
    for name in ("prompt", "completion", "label", "chosen", "rejected"):
        p.add_argument(f"--{name}", default=name, metavar="COLUMN")
    a = p.parse_args()
    total = {True: 0, False: 0}
    temporary = a.out + ".tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as out:
            for path in a.files:
                for label, n in convert(path, a, out).items():
                    total[label] += n
        if not total[True] + total[False]:
            stop("no rows")
        os.replace(temporary, a.out)
    except OSError as error:
        stop(str(error))
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    print(f"{a.out}: {total[True]} desirable and {total[False]} undesirable rows", file=sys.stderr)


if __name__ == "__main__":
    main()
