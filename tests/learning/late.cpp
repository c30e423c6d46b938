// Preloaded (LD_PRELOAD), this forces the worst case at the end of a process: a thread of gloo that has announced the end of
// an exchange is held until the main thread asks for something else, until another thread is held in its place, or until the
// interpreter calls its last exit handler. That handler is linger(): it gives the held thread time to ask for the interpreter
// while it is being taken down. Since no more than one of gloo's two threads is held at a time, nothing waits in vain.
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static std::atomic<int> asked{0}, held{0};  // what the main thread asked for so far; how often a thread was held
static std::atomic<int> late{0};            // threads that are held now
static std::atomic<bool> leaving{false};
static thread_local int told = 0;  // of the exchange in hand: to a future first, then to who waits for it

static bool by_main() { return syscall(SYS_gettid) == getpid(); }

static void call(const char *name, std::condition_variable *condition) {
    reinterpret_cast<void (*)(std::condition_variable *)>(dlsym(RTLD_NEXT, name))(condition);
}

void std::condition_variable::notify_one() noexcept {
    if (by_main()) ++asked;
    told = 0;
    call("_ZNSt18condition_variable10notify_oneEv", this);
}

void std::condition_variable::notify_all() noexcept {
    if (by_main()) ++asked;
    const int before = asked;
    call("_ZNSt18condition_variable10notify_allEv", this);
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    if (strcmp(name, "pt_gloo_runloop") || ++told != 2) return;
    static std::atomic<bool> said{false};
    if (!said.exchange(true)) fputs("A thread of gloo is late.\n", stderr);
    ++late;
    const int turn = ++held;
    for (int ms = 0; held == turn && asked == before && !leaving && ms < 10000; ++ms) usleep(1000);
    --late;
}

extern "C" void linger() {
    if (late == 0) return;
    leaving = true;
    usleep(100000);
}
