// The stand-in's runtime. Work put on a stream is kept and runs only when the host waits for the stream (or copies from
// device memory in a blocking way), so that a forgotten wait shows as old data or NaN. Device memory is out of the
// host's reach except while such work runs, and new memory is all NaN. Blocks run one after the other; the threads of a
// block are fibers that change at barriers and shuffles, so that a forgotten barrier shows too.
//
// The environment:  KTO_STANDIN_DEVICES (1), KTO_STANDIN_MEMORY_MIB (2048), KTO_STANDIN_CAPABILITY (89),
// KTO_STANDIN_SHARED_KIB (99: of a block at most), KTO_STANDIN_DRIVER (as the runtime; 0: none);
// KTO_STANDIN_SEED=N runs blocks and threads in another order (0: the natural one);
// KTO_STANDIN_FAIL=NAME:N fails the N-th call of a function, or the N-th kernel as "launch:N", which loses the device;
// KTO_STANDIN_DROP=KERNEL:LINE takes one __syncthreads, __syncwarp or copies_wait away, KTO_STANDIN_DROP_WAIT=FILE:LINE
// a wait for a stream or event; KTO_STANDIN_LIST=FILE appends the barriers and waits that were met, as lines
// "KERNEL:LINE" and "wait:FILE:LINE"; KTO_STANDIN_COUNTS=FILE appends how often each function was called, as lines
// "NAME N", kernels as "launch".
#include "standin.h"

#include <boost/context/detail/fcontext.hpp>
#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <ctime>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace standin {

uint3 thread_index, block_index;
dim3 block_size, grid_size;

static const size_t PAGE = 4096, RANGE = (size_t)1 << 40, SHARED_LIMIT = 48 << 10, SHARED_MAX = 227 << 10;
static const size_t STACK = 128 << 10;
static const int WARP_SIZE = 32, THREADS_MAX = 1024;

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text == nullptr ? otherwise : atoi(text);
}

// Shared memory of a block that its launcher has asked for.
static size_t shared_opt_in() {
    static const size_t bytes = std::min((size_t)setting("KTO_STANDIN_SHARED_KIB", 99) << 10, SHARED_MAX);
    return bytes;
}

// --- the block that runs ---

enum State { READY, AT_BARRIER, AT_EXCHANGE, DONE };

struct Fiber {
    boost::context::detail::fcontext_t context = nullptr;
    void *stack = nullptr;
    State state = DONE;
    int line = 0;
};

struct Warp {
    uint64_t words[2][WARP_SIZE];
    unsigned arrived = 0;
    int generation = 0, line = 0;
    Collective what = SHUFFLE;
};

static struct Running {
    const Launch *launch = nullptr;
    const std::function<void()> *thread = nullptr;
    boost::context::detail::fcontext_t scheduler = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    int threads = 0, current = 0, waiting = 0, done = 0, barrier_line = 0;
    uint64_t votes[2] = {0, 0};
    int barrier_generation = 0;
    std::vector<std::pair<const void *, void *>> shared;
    size_t shared_used = 0;
} running;

static std::set<std::string> &barriers_met = *new std::set<std::string>; // never freed: read when the program ends
static std::map<const void *, size_t> opted_in;                          // dynamic shared memory of a kernel

void refuse(const char *format, ...) {
    fflush(stdout);
    fprintf(stderr, "stand-in: ");
    if (running.launch != nullptr)
        fprintf(stderr, "kernel %s, block (%u, %u, %u), thread %d: ", running.launch->kernel, block_index.x,
                block_index.y, block_index.z, running.current);
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    abort();
}

// "rmsnorm" of "(rmsnorm<T, N>)".
static std::string base_name(const char *kernel) {
    std::string name = kernel;
    name = name.substr(0, name.find('<'));
    return name.erase(0, name.find_first_not_of('('));
}

static void yield() {
    const boost::context::detail::transfer_t t = boost::context::detail::jump_fcontext(running.scheduler, nullptr);
    running.scheduler = t.fctx;
}

static void fiber_main(boost::context::detail::transfer_t t) {
    running.scheduler = t.fctx;
    for (;;) {
        (*running.thread)();
        running.fibers[(size_t)running.current].state = DONE;
        running.done++;
        yield();
    }
}

int lane() {
    return running.current % WARP_SIZE;
}

static unsigned lanes_of(int warp) {
    const int count = std::min(WARP_SIZE, running.threads - warp * WARP_SIZE);
    return count == WARP_SIZE ? ~0u : (1u << count) - 1;
}

bool dropped(int line) {
    static const char *const which = getenv("KTO_STANDIN_DROP");
    static const bool listed = getenv("KTO_STANDIN_LIST") != nullptr;
    if (which == nullptr && !listed) return false;
    const std::string name = base_name(running.launch->kernel) + ":" + std::to_string(line);
    if (listed) barriers_met.insert(name);
    return which != nullptr && name == which;
}

static void wait_at_barrier(int line) {
    if (!running.launch->barriers) refuse("a barrier (line %d) in a kernel started by LAUNCH; use LAUNCH_BLOCKS", line);
    Fiber &fiber = running.fibers[(size_t)running.current];
    if (running.waiting == 0)
        running.barrier_line = line;
    else if (running.barrier_line != line)
        refuse("waits at the barrier of line %d while others wait at line %d", line, running.barrier_line);
    running.waiting++;
    fiber.state = AT_BARRIER;
    fiber.line = line;
    yield();
}

void block_barrier(int line) {
    if (!dropped(line)) wait_at_barrier(line);
}

uint64_t block_vote(int line, uint64_t value, bool any) {
    const int at = running.barrier_generation & 1;
    running.votes[at] += value;
    wait_at_barrier(line);
    return any ? running.votes[at] != 0 : running.votes[at] == (uint64_t)running.threads;
}

const uint64_t *exchange(Collective what, int line, unsigned mask, uint64_t word) {
    if (!running.launch->barriers) refuse("a shuffle (line %d) in a kernel started by LAUNCH; use LAUNCH_BLOCKS", line);
    const int index = running.current / WARP_SIZE, mine = lane();
    Warp &warp = running.warps[(size_t)index];
    const unsigned lanes = lanes_of(index);
    if ((mask & lanes) != lanes)
        refuse("line %d: a mask of %08x leaves out lanes; the stand-in wants whole warps", line, mask);
    if (warp.arrived == 0) {
        warp.line = line;
        warp.what = what;
        for (int i = 0; i < WARP_SIZE; i++) warp.words[warp.generation & 1][i] = 0;
    } else if (warp.line != line || warp.what != what) {
        refuse("the warp's lanes are at different shuffles: lines %d and %d", warp.line, line);
    }
    const uint64_t *all = warp.words[warp.generation & 1];
    warp.words[warp.generation & 1][mine] = word;
    warp.arrived |= 1u << mine;
    if (warp.arrived == lanes) {
        warp.arrived = 0;
        warp.generation++;
        for (int i = 0; i < WARP_SIZE && index * WARP_SIZE + i < running.threads; i++) {
            Fiber &fiber = running.fibers[(size_t)(index * WARP_SIZE + i)];
            if (fiber.state == AT_EXCHANGE) fiber.state = READY;
        }
        return all;
    }
    Fiber &fiber = running.fibers[(size_t)running.current];
    fiber.state = AT_EXCHANGE;
    fiber.line = line;
    yield();
    return all;
}

static void set_thread(int index) {
    running.current = index;
    thread_index = {(unsigned)index % block_size.x, (unsigned)index / block_size.x % block_size.y,
                    (unsigned)index / (block_size.x * block_size.y)};
}

// --- shared memory ---

// Pages between two that nobody may touch; what a block asks for ends where the second begins.
static char *shared_pages() {
    static char *pages;
    if (pages == nullptr) {
        pages = (char *)mmap(nullptr, SHARED_MAX + PAGE + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED ||
            mprotect(pages + PAGE, (SHARED_MAX + PAGE) / PAGE * PAGE, PROT_READ | PROT_WRITE) != 0)
            refuse("no memory for shared memory");
    }
    return pages + PAGE + (SHARED_MAX + PAGE) / PAGE * PAGE;
}

void *dynamic_shared_memory() {
    return shared_pages() - (running.launch->dynamic_bytes + 15) / 16 * 16;
}

void *shared_memory(const void *site, size_t bytes, size_t alignment) {
    static char *area = (char *)aligned_alloc(256, SHARED_MAX + 256);
    for (const auto &known : running.shared)
        if (known.first == site) return known.second;
    size_t at = (running.shared_used + alignment - 1) / alignment * alignment;
    if (at + bytes > SHARED_LIMIT)
        refuse("%zu bytes of static shared memory; the limit is %zu", at + bytes, SHARED_LIMIT);
    running.shared_used = at + bytes;
    memset(area + at, 0xFF, bytes);
    running.shared.emplace_back(site, area + at);
    return area + at;
}

// --- asynchronous copies ---

struct Copy {
    void *to;
    const void *from;
    size_t bytes;
    bool valid;
};
struct Copies { // of a thread
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
};
static std::vector<Copies> &copies = *new std::vector<Copies>(THREADS_MAX);

void copy_begin(void *to, const void *from, size_t bytes, bool valid) {
    if ((uintptr_t)to % bytes != 0 || (uintptr_t)from % bytes != 0)
        refuse("an asynchronous copy of %zu bytes needs addresses that are multiples of them", bytes);
    if ((char *)to < (char *)dynamic_shared_memory() || (char *)to + bytes > shared_pages())
        refuse("an asynchronous copy leaves the block's shared memory");
    memset(to, 0xFF, bytes);
    copies[(size_t)running.current].open.push_back({to, from, bytes, valid});
}

void copies_commit() {
    Copies &mine = copies[(size_t)running.current];
    mine.groups.push_back(std::move(mine.open));
    mine.open.clear();
}

// A copy that is not valid reads nothing: its address may lie anywhere.
void copies_wait(size_t pending) {
    Copies &mine = copies[(size_t)running.current];
    for (; mine.groups.size() > pending; mine.groups.pop_front())
        for (const Copy &copy : mine.groups.front()) {
            if (copy.valid)
                memcpy(copy.to, copy.from, copy.bytes);
            else
                memset(copy.to, 0, copy.bytes);
        }
}

// At a block's end.
static void check_copies() {
    for (int i = 0; i < running.threads; i++) {
        Copies &left = copies[(size_t)i];
        size_t count = left.open.size();
        for (const auto &group : left.groups) count += group.size();
        set_thread(i);
        if (count > 0) refuse("ends before %zu of its asynchronous copies have landed", count);
        left.groups.clear();
    }
}

// --- running a kernel ---

static void prepare_fibers(int threads) {
    while ((int)running.fibers.size() < threads) {
        Fiber fiber;
        fiber.stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (fiber.stack == MAP_FAILED) refuse("no memory for a thread's stack");
        mprotect(fiber.stack, PAGE, PROT_NONE);
        fiber.context = boost::context::detail::make_fcontext((char *)fiber.stack + STACK, STACK, fiber_main);
        running.fibers.push_back(fiber);
    }
}

static void run_block_with_barriers(const std::vector<int> &order) {
    for (int i = 0; i < running.threads; i++) running.fibers[(size_t)i].state = READY;
    running.warps.assign((size_t)(running.threads + WARP_SIZE - 1) / WARP_SIZE, Warp());
    running.waiting = running.done = 0;
    running.votes[0] = running.votes[1] = 0;
    while (running.done < running.threads) {
        bool progress = false;
        for (int index : order) {
            Fiber &fiber = running.fibers[(size_t)index];
            if (fiber.state != READY) continue;
            progress = true;
            set_thread(index);
            fiber.context = boost::context::detail::jump_fcontext(fiber.context, nullptr).fctx;
        }
        if (running.waiting > 0 && running.waiting == running.threads) {
            running.barrier_generation++;
            running.votes[running.barrier_generation & 1] = 0;
            running.waiting = 0;
            for (int i = 0; i < running.threads; i++) running.fibers[(size_t)i].state = READY;
            progress = true;
        }
        if (progress) continue;
        for (int i = 0; i < running.threads; i++) {
            const Fiber &fiber = running.fibers[(size_t)i];
            if (fiber.state == DONE || fiber.state == READY) continue;
            set_thread(i);
            refuse("waits for ever at line %d: %d of %d threads have ended and %d wait at a barrier", fiber.line,
                   running.done, running.threads, running.waiting);
        }
    }
    check_copies();
}

static std::vector<int> order_of(int count, std::mt19937 *random) {
    std::vector<int> order((size_t)count);
    for (int i = 0; i < count; i++) order[(size_t)i] = i;
    if (random != nullptr) std::shuffle(order.begin(), order.end(), *random);
    return order;
}

static void run_kernel(const Launch &what, const std::function<void()> &thread) {
    static const int seed = setting("KTO_STANDIN_SEED", 0);
    static std::mt19937 random((unsigned)seed);
    std::mt19937 *const shuffle = seed != 0 ? &random : nullptr;
    running.launch = &what;
    running.thread = &thread;
    running.threads = (int)(what.block.x * what.block.y * what.block.z);
    block_size = what.block;
    grid_size = what.grid;
    if (what.barriers) prepare_fibers(running.threads);
    char *const guard = shared_pages(), *const dynamic = guard - (what.dynamic_bytes + 15) / 16 * 16;
    const int64_t blocks = (int64_t)what.grid.x * what.grid.y * what.grid.z;
    if (blocks > INT32_MAX) refuse("a grid of %lld blocks is more than the stand-in runs", (long long)blocks);
    const std::vector<int> block_order = order_of((int)blocks, shuffle);
    std::vector<int> thread_order = order_of(running.threads, nullptr);
    for (int block : block_order) {
        block_index = {(unsigned)block % what.grid.x, (unsigned)block / what.grid.x % what.grid.y,
                       (unsigned)block / (what.grid.x * what.grid.y)};
        running.shared.clear();
        running.shared_used = 0;
        if (what.dynamic_bytes > 0) memset(dynamic, 0xFF, (size_t)(guard - dynamic));
        if (shuffle != nullptr) std::shuffle(thread_order.begin(), thread_order.end(), random);
        if (what.barriers) {
            run_block_with_barriers(thread_order);
            continue;
        }
        for (int index : thread_order) {
            set_thread(index);
            thread();
        }
    }
    running.launch = nullptr;
}

// --- errors ---

static cudaError_t last_error = cudaSuccess, lost = cudaSuccess;

static cudaError_t fail(cudaError_t error) {
    last_error = error;
    return error;
}

// (Never freed: read when the program ends.)
static std::map<std::string, int> &calls = *new std::map<std::string, int>;

int count_call(const char *name) {
    return ++calls[name];
}

__attribute__((destructor)) static void list_calls() {
    const char *path = getenv("KTO_STANDIN_COUNTS");
    FILE *file = path != nullptr ? fopen(path, "a") : nullptr;
    if (file == nullptr) return;
    for (const auto &call : calls) fprintf(file, "%s %d\n", call.first.c_str(), call.second);
    fclose(file);
}

// Whether the environment asks this call to fail.
static bool injected(const char *name) {
    static const char *const which = getenv("KTO_STANDIN_FAIL");
    const int call = count_call(name);
    return which != nullptr && std::string(name) + ":" + std::to_string(call) == which;
}

#define ENTER(name, error)                                                                                             \
    do {                                                                                                               \
        if (lost != cudaSuccess) return fail(lost);                                                                    \
        if (injected(name)) return fail(error);                                                                        \
    } while (0)

// --- device memory ---

static struct Memory {
    char *base = nullptr;
    size_t used = 0, live = 0;
    int open = 0; // depth of device work: the host may not touch it at 0
    std::map<char *, size_t> blocks;
    std::set<std::pair<char *, size_t>> pinned, managed;
} memory;

static struct sigaction previous;

static void on_fault(int, siginfo_t *info, void *) {
    char *at = (char *)info->si_addr;
    const char *text = nullptr;
    if (memory.open == 0 && at >= memory.base && at < memory.base + RANGE)
        text = "stand-in: host code touched device memory\n";
    else if (running.launch != nullptr)
        text = "stand-in: a kernel touched memory that is not its own\n";
    if (text != nullptr && write(2, text, strlen(text)) < 0) _exit(1);
    sigaction(SIGSEGV, &previous, nullptr); // the access is made again, and ends as it would have
}

static void open_memory() {
    if (memory.base != nullptr) return;
    memory.base = (char *)mmap(nullptr, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory.base == MAP_FAILED) refuse("no address range for device memory");
    static char stack[1 << 16];
    stack_t alternative = {};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous);
}

void device_begin() {
    if (memory.open++ == 0 && memory.used > 0) mprotect(memory.base, memory.used, PROT_READ | PROT_WRITE);
}
void device_end() {
    if (--memory.open == 0 && memory.used > 0) mprotect(memory.base, memory.used, PROT_NONE);
}

bool is_device(const void *pointer) {
    return memory.base != nullptr && (char *)pointer >= memory.base && (char *)pointer < memory.base + RANGE;
}

static bool lies_in(const std::set<std::pair<char *, size_t>> &areas, const void *pointer) {
    for (const auto &area : areas)
        if ((char *)pointer >= area.first && (char *)pointer < area.first + area.second) return true;
    return false;
}

bool kernels_may_use(const void *pointer) {
    return is_device(pointer) || lies_in(memory.managed, pointer) || lies_in(memory.pinned, pointer);
}

// Refuses a span that leaves its allocation.
void check_span(const void *pointer, size_t bytes, const char *what) {
    if (!is_device(pointer) || bytes == 0) return;
    auto block = memory.blocks.upper_bound((char *)pointer);
    if (block == memory.blocks.begin() || (--block, (char *)pointer + bytes > block->first + block->second))
        refuse("%s: %zu bytes at %p leave their device memory", what, bytes, pointer);
}

} // namespace standin

using namespace standin;

// --- streams ---

struct CUstream_st {
    std::deque<std::function<void()>> work;
    bool queried = false;
};
struct CUevent_st {
    CUstream_st *stream = nullptr;
    double time = 0;
};

static CUstream_st default_stream;

static CUstream_st *stream_of(cudaStream_t stream) {
    return stream != nullptr ? stream : &default_stream;
}

static void drain(CUstream_st *stream) {
    if (stream->work.empty()) return;
    device_begin();
    while (!stream->work.empty() && lost == cudaSuccess) {
        std::function<void()> work = std::move(stream->work.front());
        stream->work.pop_front();
        work();
    }
    device_end();
    if (lost != cudaSuccess) stream->work.clear();
}

static std::set<std::string> &waits_met = *new std::set<std::string>;

// Whether the environment takes this wait away: then the work stays undone until the next.
static bool wait_dropped(const char *file, int line) {
    static const char *const which = getenv("KTO_STANDIN_DROP_WAIT");
    const char *name = strrchr(file, '/');
    const std::string site = (name != nullptr ? name + 1 : file) + (":" + std::to_string(line));
    waits_met.insert(site);
    return which != nullptr && site == which;
}

namespace standin {

void enqueue(cudaStream_t stream, std::function<void()> work) {
    stream_of(stream)->work.push_back(std::move(work));
}

void launch(const Launch &what, cudaStream_t stream, std::function<void()> thread) {
    if (lost != cudaSuccess) {
        last_error = lost;
        return;
    }
    const uint64_t threads = (uint64_t)what.block.x * what.block.y * what.block.z;
    const size_t allowed = opted_in.count(what.function) ? opted_in[what.function] : SHARED_LIMIT;
    if (threads == 0 || threads > (uint64_t)THREADS_MAX || what.grid.x == 0 || what.grid.y == 0 || what.grid.z == 0 ||
        what.grid.x > 0x7fffffffu || what.grid.y > 65535 || what.grid.z > 65535 || what.block.z > 64 ||
        what.dynamic_bytes > allowed) {
        last_error = what.dynamic_bytes > allowed ? cudaErrorInvalidValue : cudaErrorInvalidConfiguration;
        return;
    }
    const bool fails = injected("launch");
    enqueue(stream, [=]() {
        if (fails)
            lost = cudaErrorLaunchFailure;
        else
            run_kernel(what, thread);
    });
}

} // namespace standin

__attribute__((destructor)) static void list_sites() {
    const char *path = getenv("KTO_STANDIN_LIST");
    FILE *file = path != nullptr ? fopen(path, "a") : nullptr;
    if (file == nullptr) return;
    for (const std::string &name : barriers_met) fprintf(file, "%s\n", name.c_str());
    for (const std::string &name : waits_met) fprintf(file, "wait:%s\n", name.c_str());
    fclose(file);
}

// --- the API ---

static int current_device;

static int device_count() {
    static const int count = setting("KTO_STANDIN_DEVICES", 1);
    return count;
}
static size_t total_memory() {
    static const size_t bytes = (size_t)setting("KTO_STANDIN_MEMORY_MIB", 2048) << 20;
    return bytes;
}

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    ENTER("cudaGetDeviceCount", cudaErrorUnknown);
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver / 1000 < CUDART_VERSION / 1000) return fail(cudaErrorInsufficientDriver);
    *count = device_count();
    return *count > 0 ? cudaSuccess : fail(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
    ENTER("cudaSetDevice", cudaErrorDevicesUnavailable);
    if (device < 0 || device >= device_count()) return fail(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device) {
    ENTER("cudaGetDeviceProperties", cudaErrorUnknown);
    if (device < 0 || device >= device_count()) return fail(cudaErrorInvalidDevice);
    *out = cudaDeviceProp();
    const int capability = setting("KTO_STANDIN_CAPABILITY", 89);
    snprintf(out->name, sizeof out->name, "Stand-in GPU");
    out->totalGlobalMem = total_memory();
    out->sharedMemPerBlock = SHARED_LIMIT;
    out->sharedMemPerBlockOptin = shared_opt_in();
    out->major = capability / 10;
    out->minor = capability % 10;
    out->multiProcessorCount = 4;
    out->pciBusID = device + 1;
    out->managedMemory = out->concurrentManagedAccess = 1;
    out->l2CacheSize = 4 << 20;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    const cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    case cudaDevAttrManagedMemory:
        *value = 1;
        break;
    case cudaDevAttrConcurrentManagedAccess:
        *value = 1;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)shared_opt_in();
        break;
    default:
        return fail(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
    if (device < 0 || device >= device_count()) return fail(cudaErrorInvalidDevice);
    snprintf(id, (size_t)length, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = setting("KTO_STANDIN_DRIVER", CUDART_VERSION);
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    *out = nullptr;
    ENTER("cudaMalloc", cudaErrorMemoryAllocation);
    open_memory();
    if (bytes == 0) return cudaSuccess;
    if (memory.live + bytes > total_memory()) return fail(cudaErrorMemoryAllocation);
    const size_t room = (bytes + PAGE - 1) / PAGE * PAGE + PAGE; // a page of NaN behind every allocation
    char *at = memory.base + memory.used;
    if (memory.used + room > RANGE) refuse("the address range is used up");
    if (mprotect(at, room, PROT_READ | PROT_WRITE) != 0) return fail(cudaErrorMemoryAllocation);
    memset(at, 0xFF, bytes);
    memory.used += room;
    if (memory.open == 0) mprotect(at, room, PROT_NONE);
    memory.blocks[at] = bytes;
    memory.live += bytes;
    *out = at;
    return cudaSuccess;
}
static cudaError_t release(std::set<std::pair<char *, size_t>> &areas, void *pointer) {
    for (auto it = areas.begin(); it != areas.end(); ++it)
        if (it->first == pointer) {
            cudaDeviceSynchronize();
            areas.erase(it);
            free(pointer);
            return cudaSuccess;
        }
    return fail(cudaErrorInvalidValue);
}

cudaError_t cudaFree(void *pointer) {
    if (pointer == nullptr) return cudaSuccess;
    if (!is_device(pointer)) return release(memory.managed, pointer);
    auto block = memory.blocks.find((char *)pointer);
    if (block == memory.blocks.end()) return fail(cudaErrorInvalidValue);
    cudaDeviceSynchronize();
    const size_t room = (block->second + PAGE - 1) / PAGE * PAGE;
    madvise(block->first, room, MADV_DONTNEED);
    memory.live -= block->second;
    memory.blocks.erase(block);
    return cudaSuccess;
}
static cudaError_t host_memory(void **out, size_t bytes, std::set<std::pair<char *, size_t>> &areas) {
    *out = aligned_alloc(PAGE, (bytes + PAGE) / PAGE * PAGE);
    if (*out == nullptr) return fail(cudaErrorMemoryAllocation);
    memset(*out, 0xFF, bytes);
    areas.insert({(char *)*out, bytes});
    return cudaSuccess;
}
cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned) {
    *out = nullptr;
    ENTER("cudaMallocManaged", cudaErrorMemoryAllocation);
    return host_memory(out, bytes, memory.managed);
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
    *out = nullptr;
    ENTER("cudaMallocHost", cudaErrorMemoryAllocation);
    return host_memory(out, bytes, memory.pinned);
}
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    return cudaMallocHost(out, bytes);
}
cudaError_t cudaFreeHost(void *pointer) {
    return pointer == nullptr ? cudaSuccess : release(memory.pinned, pointer);
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = total_memory();
    *free_bytes = total_memory() - memory.live;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    ENTER("cudaMemcpyAsync", cudaErrorUnknown);
    check_span(to, bytes, "cudaMemcpyAsync to");
    check_span(from, bytes, "cudaMemcpyAsync from");
    if (bytes == 0) return cudaSuccess;
    if (is_device(from) ||
        lies_in(memory.pinned, from)) { // pinned memory is read when the copy runs, whatever it holds then
        enqueue(stream, [=]() { memcpy(to, from, bytes); });
        return cudaSuccess;
    }
    auto copy = std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
    enqueue(stream, [=]() { memcpy(to, copy->data(), bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    if (error != cudaSuccess) return error;
    drain(&default_stream);
    return lost != cudaSuccess ? fail(lost) : cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    ENTER("cudaMemsetAsync", cudaErrorUnknown);
    check_span(to, bytes, "cudaMemsetAsync");
    enqueue(stream, [=]() { memset(to, value, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
    if (error == cudaSuccess) drain(&default_stream);
    return error;
}
cudaError_t cudaMemAdvise(const void *, size_t, cudaMemoryAdvise, cudaMemLocation) {
    ENTER("cudaMemAdvise", cudaErrorUnknown);
    return cudaSuccess;
}
cudaError_t cudaMemPrefetchAsync(const void *, size_t, cudaMemLocation, unsigned, cudaStream_t) {
    ENTER("cudaMemPrefetchAsync", cudaErrorUnknown);
    return cudaSuccess;
}

static std::set<CUstream_st *> streams;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    ENTER("cudaStreamCreate", cudaErrorUnknown);
    *out = new CUstream_st;
    streams.insert(*out);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *out) {
    return cudaStreamCreateWithFlags(out, cudaStreamDefault);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    drain(stream_of(stream));
    streams.erase(stream);
    delete stream;
    return cudaSuccess;
}
cudaError_t standin_stream_wait(cudaStream_t stream, const char *file, int line) {
    ENTER("cudaStreamSynchronize", cudaErrorUnknown);
    if (!wait_dropped(file, line)) drain(stream_of(stream));
    return lost != cudaSuccess ? fail(lost) : cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    ENTER("cudaStreamQuery", cudaErrorUnknown);
    CUstream_st *asked = stream_of(stream);
    asked->queried = !asked->work.empty() && !asked->queried; // not ready at the first question
    if (asked->queried) return cudaErrorNotReady;
    drain(asked);
    return lost != cudaSuccess ? fail(lost) : cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) {
    ENTER("cudaDeviceSynchronize", cudaErrorUnknown);
    drain(&default_stream);
    for (CUstream_st *stream : streams) drain(stream);
    return lost != cudaSuccess ? fail(lost) : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    ENTER("cudaStreamWaitEvent", cudaErrorUnknown);
    CUstream_st *other = event->stream;
    if (other != nullptr && other != stream_of(stream)) enqueue(stream, [=]() { drain(other); });
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
    ENTER("cudaEventCreate", cudaErrorUnknown);
    *out = new CUevent_st;
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (event->stream != nullptr) drain(event->stream);
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    ENTER("cudaEventRecord", cudaErrorUnknown);
    event->stream = stream_of(stream);
    enqueue(stream, [=]() {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        event->time = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    });
    return cudaSuccess;
}
cudaError_t standin_event_wait(cudaEvent_t event, const char *file, int line) {
    ENTER("cudaEventSynchronize", cudaErrorUnknown);
    if (event->stream != nullptr && !wait_dropped(file, line)) drain(event->stream);
    return lost != cudaSuccess ? fail(lost) : cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    ENTER("cudaEventQuery", cudaErrorUnknown);
    if (event->stream != nullptr) drain(event->stream);
    return lost != cudaSuccess ? fail(lost) : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to) {
    *milliseconds = (float)(1e3 * (to->time - from->time));
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t error = lost != cudaSuccess ? lost : last_error;
    last_error = cudaSuccess;
    return error;
}
cudaError_t cudaPeekAtLastError(void) {
    return lost != cudaSuccess ? lost : last_error;
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};
const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &known : errors)
        if (known.error == error) return known.name;
    return "cudaErrorUnknown";
}
const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &known : errors)
        if (known.error == error) return known.text;
    return "unknown error";
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    ENTER("cudaFuncSetAttribute", cudaErrorUnknown);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || (size_t)value > shared_opt_in())
        return fail(cudaErrorInvalidValue);
    opted_in[kernel] = (size_t)value;
    return cudaSuccess;
}

} // extern "C"
