"""A process that keeps conversations of two people until it is killed: `transcripts_worker.py STORE`. Each line that it
prints is the id of one that is kept."""

import itertools
import os
import sys
import time

from llmshield.transcripts import Kept, Told, Transcripts


def main():
    kept = Transcripts(Kept(sys.argv[1]))
    kept.open()
    print("open", flush=True)
    for number in itertools.count():
        told = []
        for user in ("alice", "bob"):
            words = f"The harvest of quinces of {user} was poor. " * 20
            told.append(
                Told("acme", user, f"{os.getpid()}-{number:06}", time.time() + 3600, kept.people.erasures,
                     {"at": time.time()}, [["user", "/messages/0/content", words]])
            )  # fmt: skip
        if number % 3 == 0:
            time.sleep(0.002)  # a call takes its time: somebody may be erased meanwhile
        stored = kept.put(told)
        kept.look_after()
        print(f"{os.getpid()}-{number:06} {stored.kept} {stored.late}", flush=True)


main()
