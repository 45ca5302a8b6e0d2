-- A stream, as Kinesis behaves: what is decided about the records of its shards, each call in one step.
--
-- KEYS[1] is what is known of the stream, KEYS[2] what is remembered of this call, KEYS[3..] shards, each a Redis
-- stream. ARGV[1] is the time, ARGV[2] what to do, ARGV[3] for how many milliseconds a call is remembered, so that it
-- can be repeated when its answer was lost; then come the numbers of the shards, and what is the call's own.
--
-- An entry's id is the time in milliseconds at which it came and its place in its shard: places have no gaps, so what
-- lies between two of them, and what was lost there, is a subtraction. Its field `c` has the bytes of the shard up to
-- and with it. An entry is gone when it is older than the retention and no consumer group still has to pass it; what is
-- gone may stand there for a while.

local CHUNK = 32 -- entries that are read before their sizes are known
local TRIMMED = 10000 -- entries that are removed at once
local ms = math.floor(now / 1000)

-- What an answer begins with.
local DONE, UNDECLARED, CHANGED, FULL = 0, 1, 2, 3

local function parts_of(id)
    local at, place = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(at), tonumber(place)
end

local function is_before(at, place, other_at, other_place)
    return at < other_at or at == other_at and place < other_place
end

-- The stream with the shards of KEYS[3..], and where the call's own words begin.
local function open()
    local found = redis.call('HMGET', KEYS[1], 'config', 'retention', 'most', 'version', 'bytes', 'sleepers', 'keep')
    if not found[1] then
        return nil
    end
    local stream = {
        config = found[1], retention = tonumber(found[2]), most = tonumber(found[3]), version = found[4],
        bytes = tonumber(found[5]), sleepers = found[6], keep = found[7] == '1', shards = {},
    }
    for first = 3, #KEYS, STEP do
        local fields = {}
        for i = first, math.min(first + STEP - 1, #KEYS) do
            fields[#fields + 1] = 'shard ' .. ARGV[i + 1]
        end
        for i, text in ipairs(redis.call('HMGET', KEYS[1], unpack(fields))) do
            local last, at, sum, base, swept, closed = string.match(
                text or '0 0 0 0 0 0', '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d)$'
            )
            stream.shards[#stream.shards + 1] = {
                key = KEYS[first + i - 1], field = fields[i], last = tonumber(last), at = tonumber(at),
                sum = tonumber(sum), base = tonumber(base), swept = tonumber(swept), closed = tonumber(closed),
            }
        end
    end
    return stream, #KEYS + 2
end

local function save(shard)
    redis.call('HSET', KEYS[1], shard.field, string.format(
        '%.0f %.0f %.0f %.0f %.0f %d', shard.last, shard.at, shard.sum, shard.base, shard.swept, shard.closed
    ))
end

local function wake(stream)
    if stream.sleepers then
        redis.call('HDEL', KEYS[1], 'sleepers')
        redis.call('PUBLISH', KEYS[1], '')
    end
end

local function known(code)
    return {code, unpack(redis.call('HMGET', KEYS[1], 'config', 'version', 'layout'))}
end

-- A version is never one that was before, not even of a stream that was deleted.
local function renew(version)
    redis.call('HSET', KEYS[1], 'version', whole(math.max(now, (tonumber(version) or 0) + 1)))
end

-- What is before this id is too old, and passed by every group that counts, also by those of others.
local function horizon_of(stream, shard)
    local at, place = ms - stream.retention, 0
    for _, words in ipairs(stream.keep and redis.pcall('XINFO', 'GROUPS', shard.key) or {}) do
        local group = {}
        for i = 1, #words, 2 do
            group[words[i]] = words[i + 1]
        end
        local group_at, group_place = parts_of(group['last-delivered-id'])
        group_place = group_place + 1
        if group.pending > 0 then
            group_at, group_place = parts_of(redis.call('XPENDING', shard.key, group.name)[2])
        end
        if is_before(group_at, group_place, at, place) then
            at, place = group_at, group_place
        end
    end
    return at, place
end

-- Entries from this id on ('-': the first) that are not gone.
local function range(stream, shard, from, count)
    local found = redis.call('XRANGE', shard.key, from, '+', 'COUNT', count)
    if found[1] and parts_of(found[1][1]) < ms - stream.retention then
        local at, place = horizon_of(stream, shard)
        local first_at, first_place = parts_of(found[1][1])
        if is_before(first_at, first_place, at, place) then
            found = redis.call('XRANGE', shard.key, whole(at) .. '-' .. whole(place), '+', 'COUNT', count)
        end
    end
    return found
end

-- Remove what is gone, within limits, and count it no more.
local function sweep(stream, shard)
    local first = range(stream, shard, '-', 1)[1]
    local id = first and first[1] or whole(math.max(ms - stream.retention, 0))
    redis.call('XTRIM', shard.key, 'MINID', '~', id, 'LIMIT', TRIMMED)
    local base = shard.sum
    if first then
        local fields = first[2]
        base = tonumber(fields[6]) and tonumber(fields[6]) - #fields[2] - #fields[4] or shard.base
    end
    stream.bytes = stream.bytes - (base - shard.base)
    shard.base, shard.swept = base, ms
end

-- Its time never goes back. Somebody else who writes there must not stop us.
local function add(shard, key, data, hops)
    shard.last, shard.sum = shard.last + 1, shard.sum + #key + #data
    local words = {shard.key, whole(shard.at) .. '-' .. whole(shard.last), 'k', key, 'd', data, 'c', whole(shard.sum)}
    if hops ~= '0' then
        words[9], words[10] = 'h', hops
    end
    return redis.pcall('XADD', unpack(words)).err
end

local calls = {}

-- Config, retention, most, whether what is unread is kept, layout; and whether only if nobody has declared it.
function calls.declare()
    local config = redis.call('HGET', KEYS[1], 'config')
    if not config then
        redis.call('HSET', KEYS[1], 'layout', ARGV[8], 'bytes', '0')
        redis.call('PUBLISH', KEYS[1], '') -- somebody may wait for what was here before its keys were deleted
    end
    if not config or config ~= ARGV[4] and ARGV[9] ~= '1' then
        redis.call('HSET', KEYS[1], 'config', ARGV[4], 'retention', ARGV[5], 'most', ARGV[6], 'keep', ARGV[7])
        renew(redis.call('HGET', KEYS[1], 'version'))
    end
    return known(DONE)
end

function calls.look()
    return open() and known(DONE) or {UNDECLARED}
end

-- The version of the layout that the caller knows; and for each record which of the keys its shard is, its own key,
-- data and hops. Gives the time of each shard, and the place in it before the first record.
function calls.put()
    local stream, first = open()
    if not stream then
        return {UNDECLARED}
    end
    local told = redis.call('GET', KEYS[2])
    if told then
        return {DONE, told}
    end
    if stream.version ~= ARGV[first] then
        return known(CHANGED)
    end
    local size = 0
    for i = first + 1, #ARGV, 4 do
        size = size + #ARGV[i + 1] + #ARGV[i + 2]
    end
    if stream.most and stream.bytes + size > stream.most then
        return {FULL, stream.bytes, size}
    end
    stream.bytes = stream.bytes + size
    for _, shard in ipairs(stream.shards) do
        shard.at, shard.before = math.max(ms, shard.at), shard.last
        if ms - shard.swept > stream.retention / 100 then
            sweep(stream, shard)
        end
    end
    for i = first + 1, #ARGV, 4 do
        local shard = stream.shards[tonumber(ARGV[i])]
        local failed = add(shard, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
        if failed and shard.last == shard.before + 1 then
            local info = redis.call('XINFO', 'STREAM', shard.key)
            for j = 1, #info, 2 do
                if info[j] == 'last-generated-id' then
                    shard.at = math.max(parts_of(info[j + 1]) + 1, shard.at)
                end
            end
            shard.last, shard.sum = shard.before, shard.sum - #ARGV[i + 1] - #ARGV[i + 2]
            failed = add(shard, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
        end
        if failed then
            return redis.error_reply(failed)
        end
    end
    local words = {}
    for i, shard in ipairs(stream.shards) do
        words[i] = whole(shard.at) .. ' ' .. whole(shard.before)
        save(shard)
    end
    redis.call('HSET', KEYS[1], 'bytes', whole(stream.bytes))
    wake(stream)
    told = table.concat(words, ' ')
    redis.call('SET', KEYS[2], told, 'PX', ARGV[3])
    return {DONE, told}
end

-- How many bytes in all, whether the caller waits if there is nothing; and for each shard the time and place behind
-- which to read, how many records and how many bytes. Gives for each its last place, whether it is closed, and id,
-- key, data and hops of each record; nothing for those that are to be asked for again.
function calls.read()
    local stream, first = open()
    if not stream then
        return {UNDECLARED}
    end
    local budget, found, answer = tonumber(ARGV[first]), ARGV[first + 1] == '0', {DONE, stream.version}
    for i, shard in ipairs(stream.shards) do
        local word = first + 2 + (i - 1) * 4
        local from = '(' .. ARGV[word] .. '-' .. ARGV[word + 1]
        local left, room = tonumber(ARGV[word + 2]), math.min(tonumber(ARGV[word + 3]), budget)
        local told, size, count = {}, 0, 0
        while left > count and budget > 0 and shard.last > tonumber(ARGV[word + 1]) do
            local chunk = count > 0 and math.floor((room - size) * count / size) or CHUNK
            chunk = math.max(math.min(chunk, left - count, STEP), 1)
            local entries = range(stream, shard, from, chunk)
            for _, entry in ipairs(entries) do
                local id, fields = entry[1], entry[2]
                from = '(' .. id
                if fields[1] == 'k' and fields[3] == 'd' then -- or else it is somebody else's
                    local key, data = fields[2], fields[4]
                    size = size + #key + #data
                    if count > 0 and size > room then
                        left = count
                        break
                    end
                    local base = count * 4
                    told[base + 1], told[base + 2], told[base + 3], told[base + 4] = id, key, data, fields[8] or ''
                    count = count + 1
                end
            end
            if #entries < chunk then
                break
            end
        end
        if budget > 0 then
            answer[i + 2] = {shard.last, shard.closed, told}
            found = found or count > 0
        else
            answer[i + 2] = {}
        end
        budget = budget - size
    end
    if not found and not stream.sleepers then
        redis.call('HSET', KEYS[1], 'sleepers', '1')
    end
    return answer
end

-- Where reading starts: TRIM_HORIZON, LATEST, or the first record that came from a time on (milliseconds). Gives the
-- time and the place behind which to read.
function calls.position()
    local stream, first = open()
    if not stream then
        return {UNDECLARED}
    end
    local shard, start = stream.shards[1], ARGV[first]
    local entry = start ~= 'LATEST' and range(stream, shard, start == 'TRIM_HORIZON' and '-' or start, 1)[1]
    if not entry then
        return {DONE, whole(shard.at), whole(shard.last)}
    end
    local at, place = parts_of(entry[1])
    return {DONE, whole(at), whole(place - 1)}
end

-- The time and the place behind which to count. Gives how many records there are, and when the first came.
function calls.backlog()
    local stream, first = open()
    if not stream then
        return {UNDECLARED}
    end
    local shard = stream.shards[1]
    local entry = range(stream, shard, '(' .. ARGV[first] .. '-' .. ARGV[first + 1], 1)[1]
    if not entry then
        return {DONE, 0, 0}
    end
    local at, place = parts_of(entry[1])
    return {DONE, shard.last - place + 1, at}
end

-- The version of the layout that the caller knows, and what it is to be without the shards of KEYS, which are closed.
function calls.reshard()
    local stream, first = open()
    if not stream then
        return {UNDECLARED}
    end
    if redis.call('GET', KEYS[2]) then
        return known(DONE)
    end
    if stream.version ~= ARGV[first] then
        return known(CHANGED)
    end
    for _, shard in ipairs(stream.shards) do
        shard.closed = 1
        save(shard)
    end
    redis.call('HSET', KEYS[1], 'layout', ARGV[first + 1])
    renew(stream.version)
    redis.call('SET', KEYS[2], '', 'PX', ARGV[3])
    wake(stream)
    return known(DONE)
end

-- Remove what is gone from these shards.
function calls.sweep()
    local stream = open()
    if not stream then
        return {UNDECLARED}
    end
    for _, shard in ipairs(stream.shards) do
        if shard.sum > shard.base then
            sweep(stream, shard)
            save(shard)
        end
    end
    redis.call('HSET', KEYS[1], 'bytes', whole(stream.bytes))
    return {DONE}
end

-- A group has passed what is up to there, says the owner of its lease; one whose fence is lower is no longer it. For
-- each shard: the group, its fence, time and place.
function calls.passed()
    local stream, first = open()
    if not stream then
        return {UNDECLARED}
    end
    for i, shard in ipairs(stream.shards) do
        local word = first + (i - 1) * 4
        local group, fence, id = ARGV[word], tonumber(ARGV[word + 1]), ARGV[word + 2] .. '-' .. ARGV[word + 3]
        local field = 'fence ' .. ARGV[3 + i] .. ' ' .. group
        local before = tonumber(redis.call('HGET', KEYS[1], field) or -1)
        if fence >= before then
            redis.call('HSET', KEYS[1], field, whole(fence))
            if redis.pcall('XGROUP', 'SETID', shard.key, group, id, 'ENTRIESREAD', ARGV[word + 3]).err then
                redis.call('XGROUP', 'CREATE', shard.key, group, id, 'MKSTREAM', 'ENTRIESREAD', ARGV[word + 3])
            end
        end
    end
    return {DONE}
end

-- The groups of mappings.
function calls.groups()
    local groups, told = {}, {}
    for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
        local group = string.match(field, '^fence %d+ (.*)$')
        if group and not groups[group] then
            groups[group], told[#told + 1] = true, group
        end
    end
    return {DONE, told}
end

-- These groups hold up nothing any more.
function calls.forget()
    local stream, first = open()
    if not stream then
        return {UNDECLARED}
    end
    for i = first, #ARGV do
        for j, shard in ipairs(stream.shards) do
            redis.pcall('XGROUP', 'DESTROY', shard.key, ARGV[i])
            redis.call('HDEL', KEYS[1], 'fence ' .. ARGV[3 + j] .. ' ' .. ARGV[i])
        end
    end
    return {DONE}
end

return calls[ARGV[2]]()
