# ruff: noqa: E501
"""Hostile Python, each with what may become of it. `SECRET` lies on the host; a program that prints it has escaped."""

SECRET = "the-host-keeps-this-3f9a"

# name -> (source, verdicts it may get). Standard output is checked apart: it never has SECRET.
PYTHON: dict[str, tuple[str, set[str]]] = {
    "fork bomb": ("import os\nwhile True:\n os.fork()", {"time-limit", "runtime-error"}),
    "thread bomb": (
        "import threading,time\nwhile True: threading.Thread(target=time.sleep,args=(99,)).start()",
        {"runtime-error", "time-limit", "memory-limit"},
    ),
    "memory bomb": ("x=[]\nwhile True: x.append(bytearray(1<<24))", {"memory-limit"}),
    "memory bomb in many processes": (
        "import os,time\nfor _ in range(20):\n if os.fork()==0:\n  x=bytearray(100<<20)\n  time.sleep(99)\ntime.sleep(99)",
        {"time-limit", "memory-limit", "runtime-error"},
    ),
    "infinite loop": ("while True: pass", {"time-limit"}),
    "uninterruptible loop": (
        "import signal\nfor s in range(1,32):\n try: signal.signal(s,signal.SIG_IGN)\n except OSError: pass\nwhile True: pass",
        {"time-limit"},
    ),
    "sleep for ever": ("import time\ntime.sleep(1e6)", {"time-limit"}),
    "catastrophic regex": ("import re\nre.match('(a+)+$','a'*60+'b')", {"time-limit"}),
    "huge power": ("x=9**9**9", {"time-limit", "memory-limit"}),
    "network": (
        "import socket\nfor a in ('1.1.1.1','127.0.0.1','169.254.169.254'):\n"
        " try:\n  socket.create_connection((a,80),1); print('LEAK')\n except OSError as e: print(type(e).__name__)\nraise SystemExit(3)",
        {"runtime-error"},
    ),
    "name service": ("import socket\nsocket.gethostbyname('example.org')", {"runtime-error"}),
    "vsock": ("import socket\nsocket.socket(40,1)", {"runtime-error"}),
    "netlink": ("import socket\nsocket.socket(16,3)", {"runtime-error"}),
    "read a host file": ("print(open({secret!r}).read())", {"runtime-error"}),
    "read the home and the repository": (
        "import os,sys\nfound=[]\nfor d in ('/root','/home','/srv','/mnt','/media','/var'):\n"
        " for b,ds,fs in os.walk(d):\n  found+=[f for f in fs if not b.startswith(sys.prefix) and f.endswith(('.jsonl','.toml','_history','.md'))]\n"
        "print('LEAK' if found else 'nothing')\nraise SystemExit(3)",
        {"runtime-error"},
    ),
    "read shadow": ("print(open('/etc/shadow').read())", {"runtime-error"}),
    "read passwd": ("print(open('/etc/passwd').read())", {"runtime-error"}),
    "write outside": ("open('/usr/evil','w')", {"runtime-error"}),
    "write to the interpreter": ("import os\nopen(os.__file__,'a').write('x')", {"runtime-error"}),
    "write to the root": ("open('/evil','w')", {"runtime-error"}),
    "replace the harness": ("open('/inside.py','w').write('')", {"runtime-error"}),
    "fill the disk": ("f=[open(f'/tmp/{i}','wb') for i in range(9)]\nfor x in f: x.write(bytes(30<<20))", {"runtime-error", "output-limit"}),
    "fill inodes": ("for i in range(10**6): open(f'/tmp/{i}','w').close()", {"runtime-error", "time-limit"}),
    "kill the parent": (
        "import os,signal\nfor s in (2,9,15,19):\n for p in (os.getppid(),1):\n  try: os.kill(p,s)\n  except OSError: pass\nprint('alive')",
        {"accepted"},
    ),
    "kill everyone": ("import os\nos.kill(-1,9)\nprint('alive')", {"accepted", "runtime-error"}),
    "trace the parent": (
        "import ctypes,os\nctypes.CDLL(None).ptrace(16,os.getppid(),0,0)", {"security-violation"}
    ),
    "memory of the parent": ("open('/proc/1/mem','r+b')", {"runtime-error"}),
    "descriptors of the parent": ("import os\nfor fd in os.listdir('/proc/1/fd'):\n try:\n  os.open('/proc/1/fd/'+fd,0); print('LEAK')\n except OSError: pass\nraise SystemExit(3)", {"runtime-error"}),
    "environment of the parent": ("print(open('/proc/1/environ').read())", {"runtime-error"}),
    "leave a daemon": (
        "import os,time\nif os.fork()==0:\n os.setsid()\n if os.fork()==0:\n  time.sleep(600)\n os._exit(0)\nprint('left')",
        {"accepted"},
    ),
    "daemon holds the output open": (
        "import os,time\nif os.fork()==0:\n os.setsid()\n time.sleep(600)\nprint('left')", {"accepted"}
    ),
    "gigabytes of output": ("while True: print('x'*100000)", {"output-limit"}),
    "gigabytes of errors": ("import sys\nwhile True: sys.stderr.write('x'*100000)", {"time-limit"}),
    "endless line": ("import os\nwhile True: os.write(1,b'x'*65536)", {"output-limit"}),
    "close all descriptors": ("import os\nos.closerange(0,1000)", {"accepted", "runtime-error"}),
    "close standard input": ("import os\nos.close(0)\nprint('on')", {"accepted"}),
    "leave early": ("import os\nos._exit(0)", {"accepted"}),
    "kill itself": ("import os\nos.kill(os.getpid(),11)", {"runtime-error"}),
    "abort": ("import os\nos.abort()", {"runtime-error"}),
    "raise limits": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS,(-1,-1))", {"runtime-error"}
    ),
    "become root": ("import os\nos.setuid(0)", {"runtime-error"}),
    "new user namespace": ("import ctypes,os\nctypes.CDLL(None).unshare(0x10000000)", {"security-violation"}),
    "namespace by clone": (
        "import ctypes\nctypes.CDLL(None).syscall(56,0x10000000|17,0,0,0,0)", {"security-violation"}
    ),
    "mount": ("import ctypes\nctypes.CDLL(None).mount(b'x',b'/tmp',b'tmpfs',0,None)", {"security-violation"}),
    "load a module": ("import ctypes\nctypes.CDLL(None).syscall(175,0,0,0)", {"security-violation"}),
    "bpf": ("import ctypes\nctypes.CDLL(None).syscall(321,0,0,0)", {"security-violation"}),
    "io_uring": (
        "import ctypes\nl=ctypes.CDLL(None,use_errno=True)\nassert l.syscall(425,1,0)==-1 and ctypes.get_errno()==38", {"accepted"}
    ),
    "key ring": ("import ctypes\nassert ctypes.CDLL(None).syscall(250,0,0,0,0)==-1", {"accepted"}),
    "set the clock": ("import time\ntime.clock_settime(time.CLOCK_REALTIME,0)", {"runtime-error"}),
    "turn the program's clock back": ("import time\ntime.monotonic=lambda:0\ntime.time=lambda:0\nwhile True: pass", {"time-limit"}),
    "link to the host": (
        "import os\nos.symlink({secret!r},'/tmp/l')\nprint(open('/tmp/l').read())", {"runtime-error"}
    ),
    "root through proc": ("print(open('/proc/1/root'+{secret!r}).read())", {"runtime-error"}),
    "root through own proc": ("print(open('/proc/self/root'+{secret!r}).read())", {"runtime-error"}),
    "devices": ("import os\nos.mknod('/tmp/d',0o60666,os.makedev(8,0))", {"runtime-error"}),
    "change a device's mode": ("import os\nos.chmod('/dev/null',0o600)", {"runtime-error"}),
    "change a system file's mode": ("import os\nos.chmod('/usr/bin/env',0o777)", {"runtime-error"}),
    "replace a device": ("import os\nos.remove('/dev/null')", {"runtime-error"}),
    "devices still work": (
        "open('/dev/null','w').write('x')\nassert len(open('/dev/urandom','rb').read(4))==4\nprint(open('/dev/stdin').read())",
        {"accepted"},
    ),
    "kernel messages": ("print(open('/proc/kmsg').read(1))", {"runtime-error"}),
    "system settings": ("import glob\nprint('LEAK' if glob.glob('/proc/sys/*') else 'nothing')\nopen('/proc/sys/kernel/hostname','w').write('x')", {"runtime-error"}),
    "sysrq": ("open('/proc/sysrq-trigger','w').write('b')", {"runtime-error"}),
    "compile bomb": ("x=" + "(" * 5000 + ")" * 5000, {"compile-error", "memory-limit", "runtime-error"}),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {"runtime-error", "memory-limit", "time-limit"}),
    "null byte in the source": ("print(1)\0", {"compile-error"}),
    "unicode names": ("é日本=1\nprint(é日本)", {"accepted"}),
    "surrogates in the output": ("print('\\ud800')", {"accepted", "runtime-error"}),
    "memory outside the address space": (
        "import os\nfds=[os.memfd_create(str(i)) for i in range(99)]\nfor fd in fds:\n for _ in range(31): os.write(fd,bytes(1<<20))", {"runtime-error"}
    ),
    "memory in pipes": (
        "import os,fcntl\nkeep=[]\nwhile True:\n r,w=os.pipe(); keep+=[r,w]\n fcntl.fcntl(w,1031,1<<20); os.set_blocking(w,False); os.write(w,bytes(1<<20))",
        {"runtime-error", "memory-limit", "time-limit"},
    ),
    "memory in sockets": (
        "import socket\nkeep=[]\nwhile True:\n a,b=socket.socketpair(); keep+=[a,b]; a.setblocking(False)\n try:\n  while True: a.send(bytes(1<<16))\n except BlockingIOError: pass",
        {"runtime-error", "memory-limit", "time-limit"},
    ),
    "turns the killer on its supervisor": (
        "import os,time\nopen('/proc/self/oom_score_adj','w').write('0')\ntry: open('/proc/1/oom_score_adj','w').write('1000'); print('LEAK')\nexcept OSError: pass\n"
        "for _ in range(30):\n if os.fork()==0:\n  x=bytearray(40<<20)\n  for i in range(0,len(x),4096): x[i]=1\n  time.sleep(99)\ntime.sleep(99)",
        {"memory-limit", "runtime-error", "time-limit"},
    ),
    "namespaces of the parent": (
        "import os,ctypes\nfor n in ('mnt','pid','user','net'):\n try: os.open('/proc/1/ns/'+n,0); print('LEAK')\n except OSError: pass\nraise SystemExit(3)", {"runtime-error"}
    ),
    "what is open": (
        "import os\nopen_=[fd for fd in range(4096) if os.path.exists(f'/proc/self/fd/{fd}')]\nprint('LEAK' if set(open_)-{0,1,2,3} else 'nothing')", {"accepted"}
    ),
    "stop everyone": ("import os\ntry: os.kill(-1,19)\nexcept OSError: pass\nprint('alive')", {"accepted", "time-limit"}),
    "who am I": (
        "import os\nassert os.getuid()==os.geteuid()==65534 and os.getgroups() in ([],[65534])\nassert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()\n"
        "assert os.stat('/usr').st_uid!=os.getuid()", {"accepted"},
    ),
    "the host's environment": (
        "import os\nprint('LEAK' if set(os.environ)-{'PATH','LANG','HOME','TMPDIR','PWD','OPENBLAS_NUM_THREADS','OMP_NUM_THREADS','MKL_NUM_THREADS'} else 'nothing')",
        {"accepted"},
    ),
    "signals to process 1": (
        "import os,signal\nfor s in range(1,32):\n try: os.kill(1,s); print('LEAK')\n except OSError: pass\nraise SystemExit(3)", {"runtime-error"}
    ),
    "limits of process 1": (
        "import os,resource as r\ndef tried(f,*a):\n try: f(*a); print('LEAK')\n except OSError: pass\n"
        "tried(r.prlimit,1,r.RLIMIT_NOFILE,(0,0))\ntried(r.prlimit,1,r.RLIMIT_CPU,(1,1))\ntried(r.prlimit,1,r.RLIMIT_NPROC)\n"
        "tried(os.sched_setaffinity,1,{0})\ntried(os.setpriority,os.PRIO_PROCESS,1,19)\ntried(os.sched_setscheduler,1,os.SCHED_BATCH,os.sched_param(0))\nraise SystemExit(3)",
        {"runtime-error"},
    ),
    "priority of its user": ("import os\nos.setpriority(os.PRIO_USER,os.getuid(),19)\nos.sched_setaffinity(0,{min(os.sched_getaffinity(0))})\nos.setpriority(os.PRIO_PGRP,0,19)", {"runtime-error"}),
    "descriptors in flight": (
        "import socket,os\na,b=socket.socketpair()\nf=[open(f'/tmp/{i}','w+b') for i in range(99)]\nfor x in f: x.write(bytes(9999)); socket.send_fds(a,[b'x'],[x.fileno(),b.fileno()])\nprint('sent')",
        {"accepted"},
    ),
    "a forest of folders": ("import os\nfor i in range(200): os.mkdir('d'); os.chmod('d',0o700); os.chdir('d')\nos.symlink('..','up')\nprint('deep')", {"accepted"}),
    "a file in place of its folder": ("import os\nos.rename('/tmp','/x')", {"runtime-error"}),
    "locks and leases on the system": (
        "import fcntl,os\nf=open('/usr/bin/env','rb')\nfcntl.flock(f,fcntl.LOCK_EX)\ntry: fcntl.fcntl(f,1024,0); print('LEAK')\nexcept OSError: pass\nif os.fork()==0:\n os.setsid()\n while True: pass\n",
        {"accepted"},
    ),
    "preload for the next": ("open('/etc/ld.so.preload','w').write('/tmp/evil.so')", {"runtime-error"}),
    "write to a shared library": ("import glob\nopen(sorted(glob.glob('/usr/lib/*/libc.so*'))[0],'r+b').write(b'x')", {"runtime-error"}),
    "type into the terminal": ("import fcntl\nfcntl.ioctl(0,0x5412,b'x')", {"runtime-error"}),
    "a verdict on standard output": ("print('{\"verdict\": \"accepted\", \"status\": 0}')\nraise SystemExit(1)", {"runtime-error"}),
    "a name that climbs": ("open('/tmp/..\\u2215..\\u2215etc\\u2215x','w').write('1')\nimport os\nprint(os.listdir('/tmp'))", {"accepted"}),
    "zip bomb": ("import zlib\nd=zlib.decompressobj()\nx=b''.join(d.decompress(zlib.compress(bytes(1<<26))) for _ in range(1) for _ in iter(int,1))", {"memory-limit", "time-limit", "runtime-error"}),
}  # fmt: skip

# Function-call problems f(1) -> 2: none of these may pass.
FORGERIES: dict[str, str] = {
    "leave early": "import os\nos._exit(0)",
    "exit": "import sys\nsys.exit(0)",
    "forged report": "import os,json\nfor fd in range(3,64):\n try: os.write(fd,b'{\"v\": \"accepted\"}\\n')\n except OSError: pass\nos._exit(0)",
    "forged verdict": "import os\nfor fd in range(1,64):\n try: os.write(fd,b'{\"verdict\": \"accepted\", \"v\": null}\\n'*9)\n except OSError: pass",
    "garbage report": "import os\nfor fd in range(3,64):\n try: os.write(fd,b'\\xff\\xfe[[[[\\n'*9)\n except OSError: pass\nos._exit(0)",
    "equal to everything": "class E:\n def __eq__(s,o): return True\n def __hash__(s): return 0\ndef f(x): return E()",
    "a repr that lies": "class E(str):\n def __repr__(s): return 'accepted'\ndef f(x): return E()",
    "patched builtins": "import builtins\nbuiltins.repr=lambda v:'accepted'\nbuiltins.eval=lambda *a:0\nbuiltins.compile=lambda *a,**k:None\ndef f(x): return 0",
    "patched json": "import json\njson.dumps=lambda *a,**k:'{\"v\":\"accepted\"}'\ndef f(x): return 0",
    "patched harness": "import sys\nm=sys._getframe(1).f_globals\nm['finish']=lambda c:None\ndef f(x): return 0",
    "reads the harness": "import sys,gc\nfound=[o for o in gc.get_objects() if isinstance(o,dict) and 'expected' in o]\ndef f(x): return found[0]['expected']",
    "hooks exit": "import atexit,os\natexit.register(lambda:os._exit(0))\ndef f(x): return 0",
}  # fmt: skip
