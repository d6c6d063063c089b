#include "services/fabric/store/sqlite_store.h"

#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/ids.h"
#include "lib/base/status_macros.h"
#include "services/fabric/store/codec.h"
#include "services/fabric/store/engine.h"
#include "services/fabric/store/journal.h"

namespace mycelium::fabric {
namespace {

// "MyFs", in the header of every store.
constexpr int kApplicationId = 0x4d794673;
// Grows with every change that an older release would misread.
constexpr int kSchemaVersion = 1;

constexpr absl::string_view kSchema = R"(
  CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value NOT NULL
  ) WITHOUT ROWID;
  CREATE TABLE entries (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    lease INTEGER NOT NULL
  ) WITHOUT ROWID;
  CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    ttl_ns INTEGER NOT NULL,
    checksum INTEGER NOT NULL
  );
  CREATE TABLE changes (
    last_revision INTEGER PRIMARY KEY,
    first_revision INTEGER NOT NULL,
    batches BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    state_digest INTEGER NOT NULL
  );
)";

// The WAL is copied into the database once it has so many pages of 4 KiB, and
// sooner if there is nothing else to do.
constexpr int kCheckpointPages = 1024;
constexpr int kIdleCheckpointPages = 256;

// Rows of the log of changes that one step forgets. A commit takes the chance
// to forget some once so many have gathered.
constexpr size_t kTrimRows = 64;

// A commit writes the log of changes alone: a few pages, however many keys all
// over the table of entries it is about. The entries follow behind, in order of
// keys, so that neighbours share a page: at once when there is nothing to
// commit, and with each commit once the log is ahead by so many keys or bytes.
constexpr size_t kMaxUnfoldedKeys = 8192;
constexpr size_t kMaxUnfoldedBytes = size_t{16} << 20;
// Entries that follow at once when there is nothing to commit.
constexpr size_t kIdleFoldKeys = 512;

constexpr size_t kEpochDigits = 32;

uint64_t LeaseChecksum(LeaseId id, int64_t ttl_ns) {
  return Fingerprint(absl::StrCat(ttl_ns), static_cast<uint64_t>(id));
}

// With the epoch, which has no checksum of its own.
uint64_t ChangesChecksum(const std::string& epoch, int64_t first_revision,
                         absl::string_view batches) {
  return Fingerprint(batches,
                     Fingerprint(epoch, static_cast<uint64_t>(first_revision)));
}

struct DatabaseCloser {
  void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
};
struct StatementFinalizer {
  void operator()(sqlite3_stmt* statement) const {
    sqlite3_finalize(statement);
  }
};

absl::Status CorruptError(const std::string& path, absl::string_view what) {
  return MakeError(
      absl::StatusCode::kDataLoss, kStoreErrorDomain, kReasonCorrupt,
      absl::StrCat("the store ", path, " is damaged: ", what,
                   "; restore it, or move it away to begin with an empty one"),
      {{"path", path}});
}

// A connection that holds its file exclusively. Not thread-safe.
class Database {
 public:
  static absl::StatusOr<Database> Open(const std::string& path, int flags) {
    sqlite3* raw = nullptr;
    const int result = sqlite3_open_v2(
        path.c_str(), &raw, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
        nullptr);
    Database database(path, raw);
    if (result != SQLITE_OK) return database.Error(result, "open");
    return database;
  }

  const std::string& path() const { return path_; }
  sqlite3* get() const { return handle_.get(); }

  // `doing` completes "cannot ... the store".
  absl::Status Error(int result, absl::string_view doing) const {
    const int os_error = OsError(result);
    const std::string message = absl::StrCat(
        "cannot ", doing, " the store ", path_, ": ", sqlite3_errstr(result),
        result == (result & 0xff) ? "" : absl::StrCat(" (code ", result, ")"));
    switch (result & 0xff) {
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
        return MakeError(
            absl::StatusCode::kUnavailable, kStoreErrorDomain, kReasonLocked,
            absl::StrCat("the store ", path_,
                         " is in use by another process; only one fabric can "
                         "have it open"),
            {{"path", path_}});
      case SQLITE_CORRUPT:
      case SQLITE_NOTADB:
        return CorruptError(path_, sqlite3_errstr(result));
      case SQLITE_ERROR:
      case SQLITE_SCHEMA:
        // Our own SQL does not fit the tables.
        return CorruptError(path_, "its tables are not as they were made");
      case SQLITE_CANTOPEN:
        if (os_error != 0) {
          return ErrnoStatus(os_error,
                             absl::StrCat("cannot open the store ", path_));
        }
        break;
      default:
        break;
    }
    if ((result & 0xff) == SQLITE_FULL || os_error == ENOSPC ||
        os_error == EDQUOT || os_error == EFBIG) {
      return MakeError(absl::StatusCode::kUnavailable, kStoreErrorDomain,
                       kReasonDiskFull,
                       absl::StrCat("cannot ", doing, " the store ", path_,
                                    ": there is no room on the disk"),
                       {{"path", path_}});
    }
    return MakeError(absl::StatusCode::kInternal, kStoreErrorDomain,
                     kReasonDiskFailed, message, {{"path", path_}});
  }

  absl::Status Execute(const std::string& sql, absl::string_view doing) {
    const int result =
        sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
    return result == SQLITE_OK ? absl::OkStatus() : Error(result, doing);
  }

 private:
  // What the system said when a call ended in `result`; 0 if that is unknown.
  int OsError(int result) const {
    if (handle_ == nullptr) return 0;
    if ((result & 0xff) != SQLITE_IOERR) {
      return sqlite3_system_errno(handle_.get());
    }
    // sqlite3_system_errno knows nothing of commits: the files do.
    for (const int which :
         {SQLITE_FCNTL_JOURNAL_POINTER, SQLITE_FCNTL_FILE_POINTER}) {
      sqlite3_file* file = nullptr;
      int os_error = 0;
      sqlite3_file_control(handle_.get(), "main", which, &file);
      if (file == nullptr || file->pMethods == nullptr) continue;
      file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &os_error);
      if (os_error != 0) return os_error;
    }
    return 0;
  }

  Database(std::string path, sqlite3* handle)
      : path_(std::move(path)), handle_(handle) {}

  std::string path_;
  std::unique_ptr<sqlite3, DatabaseCloser> handle_;
};

// A prepared statement: bind, step, reset. Errors are kept and returned by
// Step, so that a row's bindings need no checks of their own.
class Statement {
 public:
  Statement() = default;

  static absl::StatusOr<Statement> Prepare(Database& database,
                                           absl::string_view sql) {
    sqlite3_stmt* raw = nullptr;
    const int result = sqlite3_prepare_v3(
        database.get(), sql.data(), static_cast<int>(sql.size()),
        SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
    Statement statement(raw);
    if (result != SQLITE_OK) return database.Error(result, "read");
    return statement;
  }

  // The bytes must stay as they are until the statement is reset.
  Statement& Blob(int index, absl::string_view bytes) {
    // A null pointer would bind NULL rather than no bytes.
    Keep(sqlite3_bind_blob64(handle_.get(), index,
                             bytes.empty() ? "" : bytes.data(), bytes.size(),
                             SQLITE_STATIC));
    return *this;
  }
  Statement& Int(int index, int64_t value) {
    Keep(sqlite3_bind_int64(handle_.get(), index, value));
    return *this;
  }
  // Checksums are stored as the signed number of the same bits.
  Statement& Bits(int index, uint64_t value) {
    return Int(index, static_cast<int64_t>(value));
  }

  // SQLITE_ROW, SQLITE_DONE or an error.
  int Step() {
    const int bound = std::exchange(bind_result_, SQLITE_OK);
    return bound == SQLITE_OK ? sqlite3_step(handle_.get()) : bound;
  }

  // Runs a statement that returns no rows, and makes it ready for the next.
  int Run() {
    const int result = Step();
    Reset();
    return result == SQLITE_DONE ? SQLITE_OK : result;
  }

  void Reset() { sqlite3_reset(handle_.get()); }

  int64_t ColumnInt(int column) const {
    return sqlite3_column_int64(handle_.get(), column);
  }
  uint64_t ColumnBits(int column) const {
    return static_cast<uint64_t>(ColumnInt(column));
  }
  // Valid until the next step.
  absl::string_view ColumnBytes(int column) const {
    const void* bytes = sqlite3_column_blob(handle_.get(), column);
    const int size = sqlite3_column_bytes(handle_.get(), column);
    if (bytes == nullptr || size <= 0) return {};
    return {static_cast<const char*>(bytes), static_cast<size_t>(size)};
  }

 private:
  explicit Statement(sqlite3_stmt* handle) : handle_(handle) {}

  void Keep(int result) {
    if (bind_result_ == SQLITE_OK) bind_result_ = result;
  }

  std::unique_ptr<sqlite3_stmt, StatementFinalizer> handle_;
  int bind_result_ = SQLITE_OK;
};

// The journal of a store in an SQLite file.
class SqliteJournal final : public Journal {
 public:
  using EntryMap = std::map<std::string, std::shared_ptr<const Entry>>;

  // What opening the file found out beside the state.
  struct Position {
    uint64_t digest = 0;
    // The last revisions of the rows of `changes`, in order.
    std::deque<int64_t> rows;
    // What the table of entries lacks; null: a key to be deleted.
    EntryMap unfolded;
  };

  SqliteJournal(Database database, const JournalState& state, Position position)
      : database_(std::move(database)),
        epoch_(state.epoch),
        revision_(state.revision),
        compact_revision_(state.compact_revision),
        digest_(position.digest),
        rows_(std::move(position.rows)),
        unfolded_(std::move(position.unfolded)),
        folded_revision_(unfolded_.empty() ? revision_ : 0),
        sweep_revision_(revision_) {
    sqlite3_wal_hook(
        database_.get(),
        [](void* journal, sqlite3*, const char*, int pages) {
          static_cast<SqliteJournal*>(journal)->wal_pages_ = pages;
          return SQLITE_OK;
        },
        this);
  }

  absl::Status Prepare() {
    const std::pair<Statement*, absl::string_view> statements[] = {
        {&begin_, "BEGIN IMMEDIATE"},
        {&commit_, "COMMIT"},
        {&rollback_, "ROLLBACK"},
        {&put_entry_, "REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)"},
        {&delete_entry_, "DELETE FROM entries WHERE key = ?"},
        {&put_lease_, "REPLACE INTO leases VALUES (?, ?, ?)"},
        {&delete_lease_, "DELETE FROM leases WHERE id = ?"},
        {&add_changes_, "INSERT INTO changes VALUES (?, ?, ?, ?, ?)"},
        {&delete_changes_, "DELETE FROM changes WHERE last_revision <= ?"},
        {&put_compact_revision_,
         "UPDATE meta SET value = ? WHERE name = 'compact_revision'"},
        {&last_revision_, "SELECT max(last_revision) FROM changes"},
    };
    for (const auto& [statement, sql] : statements) {
      MYC_ASSIGN_OR_RETURN(*statement, Statement::Prepare(database_, sql));
    }
    return absl::OkStatus();
  }

  absl::Status Commit(const JournalGroup& group) override {
    MYC_RETURN_IF_ERROR(CheckUsable());
    size_t changes = 0;
    uint64_t digest = digest_;
    for (const std::shared_ptr<const Batch>& batch : group.batches) {
      digest = UpdateDigest(digest, *batch);
      changes += batch->changes.size();
    }
    Housekeeping work;
    if (unfolded_.size() >= kMaxUnfoldedKeys ||
        unfolded_bytes_ >= kMaxUnfoldedBytes) {
      // Twice as fast as new ones come.
      PlanFold(2 * changes + 64, work);
    }
    if (TrimmableRows(group.compact_revision) >= kTrimRows) {
      PlanTrim(group.compact_revision, work);
    }
    int result = begin_.Run();
    if (result == SQLITE_OK) result = WriteLeases(group);
    if (result == SQLITE_OK) result = WriteChanges(group, digest);
    if (result == SQLITE_OK) result = Write(work);
    if (result == SQLITE_OK) result = commit_.Run();
    if (result != SQLITE_OK) return Abandon(result);

    Done(work);
    digest_ = digest;
    if (group.batches.empty()) return absl::OkStatus();
    unfolded_bytes_ += buffer_.size();
    revision_ = group.batches.back()->revision;
    rows_.push_back(revision_);
    for (const std::shared_ptr<const Batch>& batch : group.batches) {
      for (const Change& change : batch->changes) {
        unfolded_[change.key()] = change.entry;
      }
    }
    return absl::OkStatus();
  }

  void Settle() override {
    if (wal_pages_ >= kCheckpointPages) Checkpoint();
  }

  absl::StatusOr<bool> Maintain(int64_t compact_revision) override {
    MYC_RETURN_IF_ERROR(CheckUsable());
    Housekeeping work;
    PlanFold(kIdleFoldKeys, work);
    PlanTrim(compact_revision, work);
    if (work.empty()) {
      if (wal_pages_ >= kIdleCheckpointPages) Checkpoint();
      return false;
    }
    int result = begin_.Run();
    if (result == SQLITE_OK) result = Write(work);
    if (result == SQLITE_OK) result = commit_.Run();
    if (result != SQLITE_OK) return Abandon(result);
    Done(work);
    // Once more, for the rest or for a checkpoint.
    return true;
  }

 private:
  // What a transaction does beside, or instead of, writing a group.
  struct Housekeeping {
    // A range of unfolded_ that goes into the table of entries.
    EntryMap::iterator fold_begin;
    EntryMap::iterator fold_end;
    bool fold = false;
    // Rows of the log of changes that go, from the oldest one.
    size_t trim_rows = 0;
    std::optional<int64_t> compact_revision;

    bool empty() const { return !fold && !compact_revision.has_value(); }
  };

  absl::Status CheckUsable() const {
    if (usable_) return absl::OkStatus();
    return MakeError(
        absl::StatusCode::kInternal, kStoreErrorDomain, kReasonDiskFailed,
        absl::StrCat("the disk failed so that it is unknown what the store ",
                     database_.path(),
                     " holds: nothing is written until it is opened again"),
        {{"path", database_.path()}});
  }

  // The rows that hold nothing after `compact_revision` and nothing that the
  // table of entries lacks. The newest row stays whatever it holds: it says
  // what the revision and the digest are.
  size_t TrimmableRows(int64_t compact_revision) const {
    const auto end =
        std::upper_bound(rows_.begin(), rows_.end(),
                         std::min(compact_revision, folded_revision_));
    const auto count = static_cast<size_t>(end - rows_.begin());
    return count == rows_.size() && count > 0 ? count - 1 : count;
  }

  void PlanTrim(int64_t compact_revision, Housekeeping& work) const {
    const size_t rows = TrimmableRows(compact_revision);
    if (rows == 0 && compact_revision <= compact_revision_) return;
    work.trim_rows = std::min(rows, kTrimRows);
    work.compact_revision = std::max(compact_revision, compact_revision_);
  }

  // The next `count` keys of the sweep over unfolded_.
  void PlanFold(size_t count, Housekeeping& work) {
    if (unfolded_.empty()) return;
    if (sweep_key_.empty()) sweep_revision_ = revision_;
    work.fold = true;
    work.fold_begin = unfolded_.upper_bound(sweep_key_);
    work.fold_end = work.fold_begin;
    for (size_t i = 0; i < count && work.fold_end != unfolded_.end(); ++i) {
      ++work.fold_end;
    }
  }

  int Write(const Housekeeping& work) {
    if (work.fold) {
      for (auto it = work.fold_begin; it != work.fold_end; ++it) {
        const int result = WriteEntry(it->first, it->second.get());
        if (result != SQLITE_OK) return result;
      }
    }
    if (work.trim_rows > 0) {
      const int result =
          delete_changes_.Int(1, rows_[work.trim_rows - 1]).Run();
      if (result != SQLITE_OK) return result;
    }
    if (!work.compact_revision.has_value()) return SQLITE_OK;
    return put_compact_revision_.Int(1, *work.compact_revision).Run();
  }

  // Remembers what Write has written, once it is committed.
  void Done(const Housekeeping& work) {
    if (work.fold) {
      const bool swept = work.fold_end == unfolded_.end();
      if (!swept) sweep_key_ = std::prev(work.fold_end)->first;
      unfolded_.erase(work.fold_begin, work.fold_end);
      if (swept) {
        // Whatever was unfolded when this sweep began is folded now.
        folded_revision_ = unfolded_.empty() ? revision_ : sweep_revision_;
        sweep_key_.clear();
        unfolded_bytes_ = 0;
      }
    }
    rows_.erase(rows_.begin(),
                rows_.begin() + static_cast<ptrdiff_t>(work.trim_rows));
    compact_revision_ = work.compact_revision.value_or(compact_revision_);
  }

  int WriteEntry(const std::string& key, const Entry* entry) {
    if (entry == nullptr) return delete_entry_.Blob(1, key).Run();
    return put_entry_.Blob(1, entry->key)
        .Blob(2, entry->value)
        .Int(3, entry->create_revision)
        .Int(4, entry->mod_revision)
        .Int(5, entry->version)
        .Int(6, entry->lease)
        .Run();
  }

  int WriteLeases(const JournalGroup& group) {
    for (const auto& [id, ttl] : group.leases) {
      int result = SQLITE_OK;
      if (ttl.has_value()) {
        const int64_t ttl_ns = absl::ToInt64Nanoseconds(*ttl);
        result = put_lease_.Int(1, id)
                     .Int(2, ttl_ns)
                     .Bits(3, LeaseChecksum(id, ttl_ns))
                     .Run();
      } else {
        result = delete_lease_.Int(1, id).Run();
      }
      if (result != SQLITE_OK) return result;
    }
    return SQLITE_OK;
  }

  int WriteChanges(const JournalGroup& group, uint64_t digest) {
    if (group.batches.empty()) return SQLITE_OK;
    buffer_.clear();
    for (const std::shared_ptr<const Batch>& batch : group.batches) {
      EncodeBatch(*batch, buffer_);
    }
    const int64_t first = group.batches.front()->revision;
    return add_changes_.Int(1, group.batches.back()->revision)
        .Int(2, first)
        .Blob(3, buffer_)
        .Bits(4, ChangesChecksum(epoch_, first, buffer_))
        .Bits(5, digest)
        .Run();
  }

  // Takes back what a failed transaction wrote, and makes sure of it.
  absl::Status Abandon(int result) {
    absl::Status status = database_.Error(result, "write to");
    if (absl::IsDataLoss(status)) {
      status = MakeError(absl::StatusCode::kInternal, kStoreErrorDomain,
                         kReasonDiskFailed, status.message(),
                         {{"path", database_.path()}});
    }
    if (sqlite3_get_autocommit(database_.get()) == 0) rollback_.Run();
    int64_t revision = -1;
    if (sqlite3_get_autocommit(database_.get()) != 0 &&
        last_revision_.Step() == SQLITE_ROW) {
      revision = last_revision_.ColumnInt(0);
    }
    last_revision_.Reset();
    usable_ = revision == revision_;
    // A WAL that has been copied is written from its start again, in room that
    // it has already.
    if (usable_ && ReasonOf(status) == kReasonDiskFull) Checkpoint();
    return status;
  }

  // Copies the WAL into the database. If it fails, the WAL goes on growing and
  // the next call tries again.
  void Checkpoint() {
    int pages = 0;
    int copied = 0;
    const int result = sqlite3_wal_checkpoint_v2(
        database_.get(), nullptr, SQLITE_CHECKPOINT_PASSIVE, &pages, &copied);
    if (result == SQLITE_OK && pages == copied) wal_pages_ = 0;
  }

  Database database_;
  const std::string epoch_;
  int64_t revision_;
  int64_t compact_revision_;
  uint64_t digest_;
  std::deque<int64_t> rows_;

  // What the log of changes has and the table of entries lacks. A sweep goes
  // over it in order of keys, again and again.
  EntryMap unfolded_;
  // The bytes that were added to the log since the last sweep ended.
  size_t unfolded_bytes_ = 0;
  // All changes up to here are in the table of entries.
  int64_t folded_revision_;
  // The newest revision when the sweep began, and the last key that it wrote;
  // empty: the sweep is yet to begin.
  int64_t sweep_revision_;
  std::string sweep_key_;

  int wal_pages_ = 0;
  bool usable_ = true;
  std::string buffer_;

  Statement begin_;
  Statement commit_;
  Statement rollback_;
  Statement put_entry_;
  Statement delete_entry_;
  Statement put_lease_;
  Statement delete_lease_;
  Statement add_changes_;
  Statement delete_changes_;
  Statement put_compact_revision_;
  Statement last_revision_;
};

absl::StatusOr<int64_t> SingleInt(Database& database, absl::string_view sql) {
  MYC_ASSIGN_OR_RETURN(Statement statement, Statement::Prepare(database, sql));
  const int result = statement.Step();
  if (result != SQLITE_ROW) return database.Error(result, "read");
  return statement.ColumnInt(0);
}

// Visits every row that `sql` selects; `visit` returns a status.
template <typename Visit>
absl::Status ForEachRow(Database& database, absl::string_view sql,
                        const Visit& visit) {
  MYC_ASSIGN_OR_RETURN(Statement statement, Statement::Prepare(database, sql));
  int result = statement.Step();
  for (; result == SQLITE_ROW; result = statement.Step()) {
    MYC_RETURN_IF_ERROR(visit(statement));
  }
  if (result != SQLITE_DONE) return database.Error(result, "read");
  return absl::OkStatus();
}

absl::Status CheckSchema(Database& database) {
  MYC_ASSIGN_OR_RETURN(const int64_t application,
                       SingleInt(database, "PRAGMA application_id"));
  if (application != kApplicationId) {
    return MakeError(absl::StatusCode::kFailedPrecondition, kStoreErrorDomain,
                     kReasonSchema,
                     absl::StrCat(database.path(),
                                  " is an SQLite database, but not a store of "
                                  "the fabric"),
                     {{"path", database.path()}});
  }
  MYC_ASSIGN_OR_RETURN(const int64_t version,
                       SingleInt(database, "PRAGMA user_version"));
  if (version != kSchemaVersion) {
    return MakeError(
        absl::StatusCode::kFailedPrecondition, kStoreErrorDomain, kReasonSchema,
        absl::StrCat("the store ", database.path(), " has schema version ",
                     version, ", and this program knows ", kSchemaVersion,
                     " only: use the release that wrote it, or a newer one"),
        {{"path", database.path()},
         {"version", absl::StrCat(version)},
         {"known", absl::StrCat(kSchemaVersion)}});
  }
  return absl::OkStatus();
}

absl::Status LoadMeta(Database& database, JournalState& state) {
  MYC_RETURN_IF_ERROR(ForEachRow(
      database, "SELECT name, value FROM meta", [&](const Statement& row) {
        const absl::string_view name = row.ColumnBytes(0);
        if (name == "epoch") state.epoch = std::string(row.ColumnBytes(1));
        if (name == "compact_revision") {
          state.compact_revision = row.ColumnInt(1);
        }
        return absl::OkStatus();
      }));
  if (state.epoch.size() != kEpochDigits || state.compact_revision < 0) {
    return CorruptError(database.path(), "its table meta is not as written");
  }
  return absl::OkStatus();
}

absl::Status LoadEntries(Database& database,
                         std::vector<std::shared_ptr<const Entry>>& entries) {
  return ForEachRow(
      database,
      "SELECT key, value, create_revision, mod_revision, version, lease "
      "FROM entries ORDER BY key",
      [&](const Statement& row) {
        auto entry = std::make_shared<Entry>();
        entry->key = std::string(row.ColumnBytes(0));
        entry->value = std::string(row.ColumnBytes(1));
        entry->create_revision = row.ColumnInt(2);
        entry->mod_revision = row.ColumnInt(3);
        entry->version = row.ColumnInt(4);
        entry->lease = row.ColumnInt(5);
        entries.push_back(std::move(entry));
        return absl::OkStatus();
      });
}

absl::Status LoadLeases(Database& database, JournalState& state) {
  MYC_RETURN_IF_ERROR(ForEachRow(
      database, "SELECT id, ttl_ns, checksum FROM leases",
      [&](const Statement& row) {
        const LeaseId id = row.ColumnInt(0);
        const int64_t ttl_ns = row.ColumnInt(1);
        if (LeaseChecksum(id, ttl_ns) != row.ColumnBits(2)) {
          return CorruptError(database.path(), "a lease is not as written");
        }
        state.leases[id] = absl::Nanoseconds(ttl_ns);
        return absl::OkStatus();
      }));
  for (const std::shared_ptr<const Entry>& entry : state.entries) {
    if (entry->lease != kNoLease && !state.leases.contains(entry->lease)) {
      return CorruptError(database.path(),
                          absl::StrCat("a key is bound to lease ", entry->lease,
                                       ", which is missing"));
    }
  }
  return absl::OkStatus();
}

// Reads the log of changes, and the digest that its newest row promises.
absl::Status LoadChanges(Database& database, JournalState& state,
                         std::deque<int64_t>& rows,
                         std::vector<std::shared_ptr<Batch>>& batches,
                         uint64_t& digest) {
  MYC_RETURN_IF_ERROR(ForEachRow(
      database,
      "SELECT last_revision, first_revision, batches, checksum, state_digest "
      "FROM changes ORDER BY last_revision",
      [&](const Statement& row) {
        const int64_t last = row.ColumnInt(0);
        const int64_t first = row.ColumnInt(1);
        const absl::string_view bytes = row.ColumnBytes(2);
        const int64_t expected =
            rows.empty() ? std::min(first, state.compact_revision + 1)
                         : rows.back() + 1;
        const size_t count = batches.size();
        const bool is_origin = first == 0 && last == 0 && bytes.empty();
        if (ChangesChecksum(state.epoch, first, bytes) != row.ColumnBits(3) ||
            !DecodeBatches(bytes, batches) || first != expected ||
            (!is_origin &&
             (batches.size() == count || batches[count]->revision != first ||
              batches.back()->revision != last))) {
          return CorruptError(
              database.path(),
              absl::StrCat("the changes up to revision ", last,
                           " are not as written, or others are missing before"
                           " them"));
        }
        rows.push_back(last);
        digest = row.ColumnBits(4);
        return absl::OkStatus();
      }));
  state.revision = rows.empty() ? -1 : rows.back();
  if (state.compact_revision > state.revision) {
    return CorruptError(database.path(), "changes are missing");
  }
  return absl::OkStatus();
}

// Brings `table`, the entries as they are in the file, up to date with what
// `batches` did last to each key. Returns the entries, in order of keys, and
// puts what differs into `unfolded`.
std::vector<std::shared_ptr<const Entry>> Merge(
    const std::vector<std::shared_ptr<const Entry>>& table,
    std::vector<std::shared_ptr<Batch>>& batches,
    SqliteJournal::EntryMap& unfolded) {
  absl::btree_map<absl::string_view, Change*> last;
  for (const std::shared_ptr<Batch>& batch : batches) {
    for (Change& change : batch->changes) last[change.key()] = &change;
  }
  std::vector<std::shared_ptr<const Entry>> merged;
  merged.reserve(table.size() + last.size());
  auto it = table.begin();
  for (const auto& [key, change] : last) {
    for (; it != table.end() && (*it)->key < key; ++it) merged.push_back(*it);
    const bool in_table = it != table.end() && (*it)->key == key;
    if (change->deleted()) {
      if (in_table) unfolded[(*it)->key] = nullptr;
    } else if (in_table && (*it)->mod_revision == change->entry->mod_revision) {
      // One copy for the state and the log.
      change->entry = *it;
      merged.push_back(*it);
    } else {
      unfolded[change->entry->key] = change->entry;
      merged.push_back(change->entry);
    }
    if (in_table) ++it;
  }
  merged.insert(merged.end(), it, table.end());
  return merged;
}

absl::Status Load(Database& database, JournalState& state,
                  SqliteJournal::Position& position) {
  MYC_RETURN_IF_ERROR(LoadMeta(database, state));
  std::vector<std::shared_ptr<Batch>> batches;
  MYC_RETURN_IF_ERROR(
      LoadChanges(database, state, position.rows, batches, position.digest));
  std::vector<std::shared_ptr<const Entry>> table;
  MYC_RETURN_IF_ERROR(LoadEntries(database, table));
  state.entries = Merge(table, batches, position.unfolded);
  // Pages of different commits, which SQLite cannot tell apart once its WAL has
  // been cut off, are found here, as is whatever else is wrong with an entry.
  uint64_t digest = 0;
  for (const auto& entry : state.entries) digest += FingerprintOf(*entry);
  if (digest != position.digest) {
    return CorruptError(
        database.path(),
        absl::StrCat("the entries are not those of revision ", state.revision));
  }
  MYC_RETURN_IF_ERROR(LoadLeases(database, state));
  for (std::shared_ptr<Batch>& batch : batches) {
    if (batch->revision > state.compact_revision) {
      state.batches.push_back(std::move(batch));
    }
  }
  return absl::OkStatus();
}

// Makes an empty store under another name first: whatever interrupts it, there
// never is a file at `path` that is not a whole store.
absl::Status Create(const std::string& path) {
  const std::string temporary = path + ".new";
  for (const absl::string_view suffix : {"", "-journal", "-wal"}) {
    ::unlink(absl::StrCat(temporary, suffix).c_str());
  }
  {
    MYC_ASSIGN_OR_RETURN(
        Database database,
        Database::Open(temporary, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE));
    const std::string epoch = RandomHex(kEpochDigits / 2);
    const auto checksum = static_cast<int64_t>(ChangesChecksum(epoch, 0, ""));
    // The log of changes begins with a row for revision 0, which changes
    // nothing, so that it is never empty unless something is wrong.
    MYC_RETURN_IF_ERROR(database.Execute(
        absl::StrCat("PRAGMA page_size = 4096; PRAGMA synchronous = EXTRA;"
                     "BEGIN;",
                     kSchema, "PRAGMA application_id = ", kApplicationId,
                     "; PRAGMA user_version = ", kSchemaVersion,
                     "; INSERT INTO meta VALUES ('epoch', '", epoch,
                     "'), ('compact_revision', 0);"
                     "INSERT INTO changes VALUES (0, 0, x'', ",
                     checksum,
                     ", 0); COMMIT;"
                     "PRAGMA journal_mode = WAL;"),
        "make"));
  }
  // Unlike rename, link leaves alone what somebody else has put there.
  if (::link(temporary.c_str(), path.c_str()) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, absl::StrCat("cannot make the store ", path));
  }
  ::unlink(temporary.c_str());
  const size_t slash = path.rfind('/');
  return SyncDirectory(slash == std::string::npos ? "."
                       : slash == 0               ? "/"
                                                  : path.substr(0, slash));
}

// Sorts out what SQLite would take for an empty database.
absl::Status CheckFiles(const std::string& path) {
  struct stat file = {};
  if (::stat(path.c_str(), &file) == 0) {
    if (S_ISREG(file.st_mode) && file.st_size > 0) return absl::OkStatus();
    if (S_ISREG(file.st_mode)) {
      return CorruptError(path, "its file is empty");
    }
    return absl::FailedPreconditionError(
        absl::StrCat("the store ", path, " is not a regular file"));
  }
  if (errno != ENOENT) {
    return ErrnoStatus(errno, absl::StrCat("cannot open the store ", path));
  }
  const std::string wal = path + "-wal";
  if (::stat(wal.c_str(), &file) == 0 && file.st_size > 0) {
    return CorruptError(path, absl::StrCat("there is ", wal,
                                           ", but not the file that it "
                                           "belongs to"));
  }
  return Create(path);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(
    const std::string& path, const StoreOptions& options) {
  MYC_RETURN_IF_ERROR(CheckFiles(path));
  MYC_ASSIGN_OR_RETURN(Database database,
                       Database::Open(path, SQLITE_OPEN_READWRITE));
  // Exclusive mode before the first access: it keeps others out, and the index
  // of the WAL in memory rather than in a third file.
  MYC_RETURN_IF_ERROR(database.Execute(
      "PRAGMA locking_mode = EXCLUSIVE; PRAGMA cell_size_check = ON;"
      "PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;"
      "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
      "PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -16384;",
      "open"));
  MYC_RETURN_IF_ERROR(CheckSchema(database));

  JournalState state;
  SqliteJournal::Position position;
  MYC_RETURN_IF_ERROR(Load(database, state, position));
  auto journal = std::make_unique<SqliteJournal>(std::move(database), state,
                                                 std::move(position));
  MYC_RETURN_IF_ERROR(journal->Prepare());
  return std::make_unique<StoreEngine>(options, std::move(journal),
                                       std::move(state));
}

}  // namespace mycelium::fabric
