"""What runs inside the sandbox. Standard library alone, since nothing else is there; the host imports only frames.

Four kinds of process, of which only the last two ever run foreign code:
  zygote      (zygote.py) keeps the imports warm, and forks one supervisor ahead of every request;
  supervisor  (supervisor.py) is process 1 of fresh pid and mount namespaces with its own /proc and /tmp; takes one
              request, starts one process per test, bounds its time and output, kills whatever is left, answers, ends;
  program     (program.py) gives up user and capabilities, takes limits and the seccomp filter, and runs the program;
  examiner    (examiner.py) runs unit tests as a process of its own, which the program can neither read nor write.
Process 1 keeps its capabilities: the kernel then lets no program trace it or open its memory. Its death ends the
namespace, and with it every descendant, however it daemonised. Expected outputs are not here, except in an examiner, so
nothing printed here can prove an answer right. The idea of forking a warm interpreter is Android's zygote.
"""
