"""What runs inside the sandbox. Standard library alone, since nothing else is there; the host imports only frames.

Five kinds of process, of which only the last two ever run foreign code:
  zygote      (zygote.py) imports what programs find warm, and forks the next two;
  supervisor  (supervisor.py) hears the requests, lays out files, starts, bounds, watches and kills, and answers;
  process 1   (init.py) of the programs' namespaces, with a /proc of its own: every program is a fork of it. It hears
              nothing of any program, and ends whatever one leaves behind;
  program     (child.py, program.py) gives up user and capabilities, hears its work and becomes it;
  examiner    (examiner.py) runs unit tests as a process of its own, which the program can neither read nor write.
Process 1 keeps its user and capabilities: the kernel then lets no program trace it or open its memory. Its death ends
the namespace, and with it every descendant, however it daemonised. Expected outputs are not here, except in an
examiner, so nothing printed here can prove an answer right. The idea of forking a warm interpreter is Android's zygote.
"""
