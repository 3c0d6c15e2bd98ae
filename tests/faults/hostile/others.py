# ruff: noqa: E501
"""Hostile programs in other languages: (language, name, source, verdicts it may get). `@SECRET@`: the host's file."""

OK, TIME, MEMORY, RUN = "accepted", "time-limit", "memory-limit", "runtime-error"
COMPILE, OUTPUT, VIOLATION = "compile-error", "output-limit", "security-violation"
_C = "#define _GNU_SOURCE\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n#include <fcntl.h>\n#include <signal.h>\n#include <sys/socket.h>\n#include <sys/mman.h>\n#include <sys/stat.h>\n#include <errno.h>\n"

OTHERS: list[tuple[str, str, str, set[str]]] = [
    # C
    ("c", "includes a host file", '#include "@SECRET@"\nint main(){return 0;}', {COMPILE}),
    ("c", "assembles a host file", '__asm__(".section .data\\nx: .incbin \\"@SECRET@\\"");extern char x[];int puts(const char*);int main(){puts(x);}', {COMPILE}),
    ("c", "compile bomb", "int main(){return 0;}\nchar x[1<<30]={1}; char y[1<<30]={1};", {COMPILE}),
    ("c", "includes itself", '#include __FILE__\nint main(){return 0;}', {COMPILE}),
    ("c", "macro bomb", "#define A(x) x x x x x x x x x x\n#define B(x) A(A(A(A(A(x)))))\nint v[]={B(B(1,))};int main(){return 0;}", {COMPILE}),
    ("c", "null pointer", "int main(){*(volatile int*)0=1;return 0;}", {RUN}),
    ("c", "stack overflow", "int f(int x){volatile char a[4096];a[0]=x;return f(x+1)+a[0];}int main(){return f(0);}", {RUN, MEMORY}),
    ("c", "fork bomb", _C + "int main(){for(;;)fork();}", {TIME, RUN}),
    ("c", "memory bomb", _C + "int main(){for(;;){char*p=malloc(1<<24);if(!p)return 1;memset(p,1,1<<24);}}", {MEMORY, RUN, TIME}),
    ("c", "endless output", _C + "int main(){char b[65536];memset(b,'x',sizeof b);for(;;)write(1,b,sizeof b);}", {OUTPUT}),
    ("c", "ignores every signal", _C + "int main(){for(int s=1;s<65;s++)signal(s,SIG_IGN);for(;;);}", {TIME}),
    ("c", "32-bit system calls", "int main(){int r;__asm__ volatile(\"int $0x80\":\"=a\"(r):\"a\"(20));return r<0;}", {VIOLATION, RUN}),
    ("c", "the x32 table", _C + "int main(){return syscall(0x40000000+39)<0;}", {VIOLATION}),
    ("c", "opens its parent", _C + "int main(){int n=0;const char*p[]={\"/proc/1/mem\",\"/proc/1/environ\",\"/proc/1/root/etc\",\"/proc/1/cwd/etc\",\"/proc/1/ns/mnt\"};for(int i=0;i<5;i++)if(open(p[i],O_RDONLY)>=0){puts(\"LEAK\");n++;}return 3;}", {RUN}),
    ("c", "links to the host", _C + "int main(){symlink(\"@SECRET@\",\"l\");char b[99];int f=open(\"l\",O_RDONLY);return f<0?3:(int)write(1,b,read(f,b,99));}", {RUN}),
    ("c", "fills the disk", _C + "int main(){char*b=calloc(1,1<<20);for(int i=0;;i++){char n[32];sprintf(n,\"f%d\",i);int f=creat(n,0644);if(f<0)return 3;for(int j=0;j<31;j++)if(write(f,b,1<<20)<0)return 4;close(f);}}", {RUN}),
    ("c", "a raw socket", _C + "int main(){return socket(AF_INET,SOCK_RAW,1)<0?3:0;}", {RUN}),
    ("c", "writes code into a page", _C + "int main(){unsigned char*p=mmap(0,4096,PROT_READ|PROT_WRITE|PROT_EXEC,MAP_PRIVATE|MAP_ANONYMOUS,-1,0);memcpy(p,\"\\xb8\\x65\\x00\\x00\\x00\\x0f\\x05\\xc3\",8);((void(*)(void))p)();return 0;}", {VIOLATION}),
    ("c", "says it passed", _C + "int main(){for(int f=3;f<64;f++)write(f,\"{\\\"v\\\": \\\"1\\\"}\\n\",11);write(1,\"accepted\\n\",9);_exit(3);}", {RUN}),
    # C++
    ("cpp", "template bomb", "template<int N>struct T{T<N+1> t;};T<0> x;int main(){}", {COMPILE}),
    ("cpp", "throws for ever", "#include <exception>\nint main(){throw 1;}", {RUN}),
    # Bash
    ("bash", "fork bomb", ":(){ :|:& };:\nwait", {OK, TIME, RUN}),
    ("bash", "reads the secret", "cat '@SECRET@'", {RUN}),
    ("bash", "leaves a daemon", "setsid sleep 600 &\necho left", {OK}),
    ("bash", "leaves a daemon that ignores signals", "(trap '' 1 2 15; setsid bash -c 'while :; do :; done') >/dev/null 2>&1 &\necho left", {OK}),
    ("bash", "network by the shell", "exec 3<>/dev/tcp/127.0.0.1/80 && echo LEAK", {RUN}),
    ("bash", "removes everything", "rm -rf --no-preserve-root / 2>/dev/null; ls /usr/bin/env && exit 3", {RUN, TIME}),
    ("bash", "finds set-uid programs", "for f in $(find /usr -perm -4000 2>/dev/null | head -20); do $f </dev/null; done >/dev/null 2>&1; [ $(id -u) = 65534 ] && exit 3", {RUN, TIME}),
    ("bash", "mounts", "mount -t tmpfs x /tmp && echo LEAK; exit 3", {RUN}),
    ("bash", "unshares", "unshare -Ur id && echo LEAK; exit 3", {RUN}),
    ("bash", "disk by dd", "dd if=/dev/zero of=/tmp/x bs=1M count=4096 2>/dev/null; exit 3", {RUN}),
    ("bash", "endless output", "yes", {OUTPUT}),
    ("bash", "changes its limits", "ulimit -v unlimited && echo LEAK; ulimit -u 9999 && echo LEAK; exit 3", {RUN}),
    ("bash", "other processes", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done | grep -c -e py[t]est -e ring[f]low && echo LEAK; exit 3", {RUN}),
    # JavaScript; its endless loop is among the tests of languages
        ("javascript", "memory bomb", "const a=[];while(true)a.push(new Array(1e6).fill(1))", {MEMORY, RUN, TIME}),
    ("javascript", "buffers outside the heap", "const a=[];while(true)a.push(Buffer.alloc(1<<24,1))", {MEMORY, RUN, TIME}),
    ("javascript", "reads the secret", "console.log(require('fs').readFileSync('@SECRET@','utf8'))", {RUN}),
    ("javascript", "network", "require('net').connect(80,'1.1.1.1').on('connect',()=>console.log('LEAK')).on('error',()=>process.exit(3))", {RUN}),
    ("javascript", "kills its parent", "try{process.kill(process.ppid,9)}catch(e){}try{process.kill(1,9)}catch(e){}console.log('alive')", {OK}),
    ("javascript", "spawns for ever", "const {spawn}=require('child_process');const f=()=>{spawn('sleep',['99']).on('error',()=>process.exit(3));setImmediate(f)};f()", {RUN, TIME, MEMORY}),
    ("javascript", "exits before the answer", "process.exit(0)", {OK}),
    # Perl, Ruby, PHP, Lua
    ("perl", "endless output", 'while(1){print "x"x65536}', {OUTPUT}),
    ("perl", "raw system call", "syscall(101,0,0,0,0)", {VIOLATION}),
    ("perl", "reads the secret", "open(F,'<','@SECRET@') or exit 3; print <F>", {RUN}),
    ("ruby", "fork bomb", "loop { fork }", {TIME, RUN, MEMORY}),
    ("ruby", "reads the secret", "puts File.read('@SECRET@')", {RUN}),
    ("php", "reads the secret", "<?php $t=@file_get_contents('@SECRET@'); if ($t===false) exit(3); echo $t;", {RUN}),
    ("php", "runs a shell", "<?php system('cat @SECRET@ 2>/dev/null', $c); exit($c);", {RUN}),
    ("lua", "memory bomb", "local t={} while true do t[#t+1]=string.rep('x',1e7) end", {MEMORY, RUN, TIME}),
    ("lua", "runs a shell", "print(io.popen('cat @SECRET@ 2>&1'):read('a')) os.exit(3)", {RUN}),
    # Java, Go, Rust, C#, Haskell, SQL, R
    ("java", "thread bomb", "public class Main{public static void main(String[] a){while(true)new Thread(()->{try{Thread.sleep(300);}catch(Exception e){}}).start();}}", {RUN, TIME, MEMORY}),
    ("java", "reads the secret", "import java.nio.file.*;public class Main{public static void main(String[] a)throws Exception{System.out.println(Files.readString(Path.of(\"@SECRET@\")));}}", {RUN}),
    ("go", "memory bomb", "package main\nfunc main(){var a [][]byte;for{b:=make([]byte,1<<24);for i:=range b{b[i]=1};a=append(a,b)}}", {MEMORY, RUN, TIME}),
    ("rust", "embeds a host file", 'fn main(){println!("{}",include_str!("@SECRET@"));}', {COMPILE}),
    ("csharp", "reads the secret", 'class P{static void Main(){System.Console.WriteLine(System.IO.File.ReadAllText("@SECRET@"));}}', {RUN}),
    ("haskell", "runs while it compiles", '{-# LANGUAGE TemplateHaskell #-}\nimport Language.Haskell.TH\nmain :: IO ()\nmain = putStrLn $(runIO (readFile "@SECRET@") >>= stringE)\n', {COMPILE}),
    ("sql", "attaches a host file", "attach '@SECRET@' as x; select * from x.sqlite_master;", {RUN}),
    ("sql", "runs a shell", ".shell cat @SECRET@\nselect 1;", {OK, RUN}),
    ("r", "runs a shell", "quit(status = system('cat @SECRET@ >/dev/null 2>&1') != 0)", {RUN}),
]  # fmt: skip

# Number on x86-64 -> name: none of these may do anything for a program.
KERNEL_SURFACE: dict[int, str] = {
    101: "ptrace", 103: "syslog", 154: "modify_ldt", 155: "pivot_root", 161: "chroot", 163: "acct", 165: "mount",
    166: "umount2", 167: "swapon", 169: "reboot", 170: "sethostname", 172: "iopl", 175: "init_module",
    246: "kexec_load", 250: "keyctl", 272: "unshare", 298: "perf_event_open", 304: "open_by_handle_at", 308: "setns",
    310: "process_vm_readv", 311: "process_vm_writev", 312: "kcmp", 313: "finit_module", 319: "memfd_create",
    321: "bpf", 323: "userfaultfd", 425: "io_uring_setup", 428: "open_tree", 429: "move_mount", 430: "fsopen",
    435: "clone3", 438: "pidfd_getfd", 442: "mount_setattr", 463: "newer than the table",
}  # fmt: skip
CALLER = (
    '#include <stdio.h>\n#include <unistd.h>\nint main(){long n;scanf("%ld",&n);printf("%ld\\n",syscall(n,0,0,0,0,0));}'
)
