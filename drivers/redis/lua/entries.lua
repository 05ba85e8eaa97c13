-- Functions that read entries of the log.
local function entry_reading()
    -- An entry of a stream as a table.
    local function fields(entry)
        local found, list = {rev = tonumber(string.sub(entry[1], 1, -3))}, entry[2]
        for place = 1, #list, 2 do
            found[list[place]] = list[place + 1]
        end
        return found
    end

    local function revision(rev)
        local id = text(rev) .. '-0'
        local found = redis.call('XRANGE', prefix .. 'log', id, id)[1]
        return found and fields(found)
    end

    -- The texts of a packed field of an entry; none if it is damaged.
    local function texts_in(packed)
        local whole, found = pcall(cmsgpack.unpack, packed or '')
        if not whole or type(found) ~= 'table' then
            return {}
        end
        for _, each in ipairs(found) do
            if type(each) ~= 'string' then
                return {}
            end
        end
        return found
    end

    return revision, texts_in, fields
end
